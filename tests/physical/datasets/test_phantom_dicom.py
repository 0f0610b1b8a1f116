from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread

from physical.datasets import phantom
from physical.datasets.dicom import read_ct
from physical.datasets.greyscale import ABDOMEN, apply_window
from physical.datasets.phantom_anatomy import CLASS_NAMES
from physical.datasets.phantom_dicom import (
    BODY_PARTS,
    ct_dataset,
    dicom_bytes,
    make_identity,
    make_uid,
    phantom_slices,
    write_phantom_dicom,
)

ORGANS = {"liver": True, "spleen": True, "bladder": False}


def test_equal_generators_give_equal_bytes(tmp_path: Path) -> None:
    written = [
        write_phantom_dicom(tmp_path / name, np.random.default_rng(seed), ORGANS, range(2), size=32)
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    ]
    one, two, other = ([(path.name, path.read_bytes()) for path in paths] for paths in written)
    assert one == two
    assert not {name for name, _ in one} & {name for name, _ in other}
    assert len(list((tmp_path / "one").iterdir())) == 6  # nothing half written is left


def test_files_are_ct_images_that_are_read_back(tmp_path: Path) -> None:
    for path in write_phantom_dicom(
        tmp_path, np.random.default_rng(0), ORGANS, range(50, 51), size=32
    ):
        (square,) = read_ct(path.read_bytes(), 32, ABDOMEN)
        assert square.std() > 10


def test_an_organ_that_the_sender_does_not_name_is_not_named(tmp_path: Path) -> None:
    paths = write_phantom_dicom(tmp_path, np.random.default_rng(0), ORGANS, range(1), size=16)
    assert [dcmread(path).get("BodyPartExamined") for path in paths] == ["LIVER", "SPLEEN", None]


def test_patients_have_their_own_identity_and_studies(tmp_path: Path) -> None:
    data = [
        dcmread(path)
        for path in write_phantom_dicom(
            tmp_path, np.random.default_rng(0), ORGANS, range(2), 2, size=16
        )
    ]
    assert (
        len({each.PatientID for each in data}) == len({each.StudyInstanceUID for each in data}) == 2
    )
    assert len({each.SOPInstanceUID for each in data}) == len(data) == 12
    assert sorted(each.InstanceNumber for each in data) == list(range(1, 13))


def test_body_parts_are_code_strings() -> None:
    assert sorted(BODY_PARTS.values()) == sorted(CLASS_NAMES)
    assert all(
        len(code) <= 16 and code.replace("_", "").isalpha() and code.isupper()
        for code in BODY_PARTS
    )


def test_slices_look_like_the_phantoms() -> None:
    images = phantom.make_phantom("axial", patients={"train": 4}, slices_per_organ=2)[
        "train_images"
    ].astype(float)
    labels = phantom.make_phantom("axial", patients={"train": 4}, slices_per_organ=2)[
        "train_labels"
    ][:, 0]
    drawn = phantom_slices(np.random.default_rng(0), CLASS_NAMES, range(4), 2, size=28)
    brightness: dict[str, list[float]] = {}
    for part in drawn:
        brightness.setdefault(part.organ, []).append(
            float(apply_window(part.hounsfield, ABDOMEN).mean())
        )
    published = [images[labels == label].mean() for label in range(len(CLASS_NAMES))]
    ours = [np.mean(brightness[name]) for name in CLASS_NAMES]
    assert np.corrcoef(published, ours)[0, 1] > 0.95
    assert np.abs(np.array(published) - ours).max() < 15


def test_densities_are_written_to_the_nearest_unit() -> None:
    rng = np.random.default_rng(0)
    hounsfield = rng.uniform(-1500, 4000, (9, 7))
    data = dcmread(BytesIO(dicom_bytes(ct_dataset(hounsfield, make_identity(rng), make_uid(rng)))))
    stored = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    assert np.abs(stored - np.clip(hounsfield, -1024, 3071)).max() <= 0.5
