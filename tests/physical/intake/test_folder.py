from collections.abc import Callable
from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread

from physical.datasets.greyscale import ABDOMEN, apply_window, fit_to_square
from physical.datasets.phantom_dicom import dicom_bytes
from physical.intake.report import IntakeReport
from tests.physical.intake.hospital_folder import HospitalFolder

Make = Callable[..., Dataset]
FileOf = Callable[..., bytes]


def test_a_ct_goes_into_archive_and_mirror_and_leaves_the_inbox(
    hospital: HospitalFolder, made: Make
) -> None:
    data = made(0, "LIVER", RescaleIntercept=-1000)
    hospital.put("ZORBLAX.dcm", dicom_bytes(data))
    assert hospital.intake.process_inbox() == IntakeReport(added=1, images=1)
    assert hospital.left() == []
    (image_id,) = hospital.mirror.ids()
    (facts,) = hospital.mirror.facts([image_id])
    (archived,) = hospital.intake.archive.glob("*/*.dcm")
    assert archived.stem == image_id == hospital.pseudonyms.of("uid", str(data.SOPInstanceUID))
    assert (
        facts.patient
        == dcmread(archived).PatientID
        == hospital.pseudonyms.of("patient", str(data.PatientID), "")
    )
    assert (facts.class_name, facts.source, facts.arrived) == (
        "liver",
        "dicom",
        "2024-02-19T08:30:00+00:00",
    )
    hounsfield = np.frombuffer(data.PixelData, "<u2").reshape(16, 16) - 1000.0
    np.testing.assert_array_equal(
        hospital.mirror.pixels([image_id])[0], fit_to_square(apply_window(hounsfield, ABDOMEN), 16)
    )


def test_the_same_file_again_is_taken_once(hospital: HospitalFolder, file_of: FileOf) -> None:
    for name in ("a.dcm", "b.dcm"):
        hospital.put(name, file_of())
    assert hospital.intake.process_inbox() == IntakeReport(added=1, images=1, repeated=1)
    hospital.put("a.dcm", file_of())
    assert hospital.intake.process_inbox() == IntakeReport(repeated=1)
    assert len(hospital.mirror) == 1
    assert hospital.left() == []


def test_the_same_image_with_other_words_around_it_is_the_same(
    hospital: HospitalFolder, made: Make
) -> None:
    hospital.put("a.dcm", dicom_bytes(made()))
    hospital.put(
        "b.dcm", dicom_bytes(made(PatientComments="arrived by another way", WindowCenter=100))
    )
    assert hospital.intake.process_inbox() == IntakeReport(added=1, images=1, repeated=1)


@pytest.mark.parametrize(
    "change", [{"RescaleIntercept": -1000}, {"PatientID": "SOMEBODY"}, {"PixelData": b"\1\0" * 256}]
)
def test_another_image_under_the_same_uid_is_quarantined(
    hospital: HospitalFolder, made: Make, change: dict[str, object]
) -> None:
    hospital.put("a.dcm", dicom_bytes(made()))
    hospital.put("b.dcm", dicom_bytes(made(**change)))
    assert hospital.intake.process_inbox() == IntakeReport(
        added=1, images=1, quarantined={"duplicate": 1}
    )
    assert hospital.intake.quarantine.counts() == {"duplicate": 1}
    assert len(hospital.mirror) == 1


def test_a_damaged_copy_in_the_archive_is_no_reason_to_refuse(
    hospital: HospitalFolder, file_of: FileOf
) -> None:
    hospital.put("a.dcm", file_of())
    hospital.intake.process_inbox()
    (archived,) = hospital.intake.archive.glob("*/*.dcm")
    whole = archived.read_bytes()
    archived.write_bytes(whole[:100])
    hospital.put("a.dcm", file_of())
    assert hospital.intake.process_inbox() == IntakeReport(repeated=1)
    assert archived.read_bytes() == whole


def test_frames_become_images_of_their_own(hospital: HospitalFolder, made: Make) -> None:
    data = made(NumberOfFrames=3)
    data.PixelData = data.PixelData * 3
    hospital.put("a.dcm", dicom_bytes(data))
    assert hospital.intake.process_inbox() == IntakeReport(added=1, images=3)
    root = hospital.pseudonyms.of("uid", str(data.SOPInstanceUID))
    assert hospital.mirror.ids() == [f"{root}-0001", f"{root}-0002", f"{root}-0003"]


def test_an_image_without_a_senders_name_has_no_name(
    make_hospital: Callable[..., HospitalFolder], file_of: FileOf
) -> None:
    hospital = make_hospital()
    hospital.put("a.dcm", file_of(body_part=None))
    hospital.intake.process_inbox()
    assert hospital.mirror.ids(named=False) == hospital.mirror.ids()
    blind = make_hospital("blind", label_tag=None)
    blind.put("a.dcm", file_of(body_part="LIVER"))
    blind.intake.process_inbox()
    assert blind.mirror.class_counts() == {}


def test_pictures_and_volumes_are_taken_with_their_folders_name(
    make_hospital: Callable[..., HospitalFolder], file_of: FileOf
) -> None:
    hospital = make_hospital(class_from_folder=True)
    stream = BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(stream, "PNG")
    hospital.put("Spleen/one.png", stream.getvalue())
    stream = BytesIO()
    Image.fromarray(np.full((20, 20), 9, np.uint8)).save(stream, "JPEG")
    hospital.put("liver/two.jpg", stream.getvalue())
    hospital.put(
        "liver/three.nii",
        nib.Nifti1Image(np.zeros((8, 8, 2), np.int16), np.eye(4)).to_bytes(),
    )
    hospital.put("liver/four.dcm", file_of(body_part=None))
    hospital.put("five.png", b"\x89PNG\r\n\x1a\n nothing")
    hospital.put("six.nii.gz", b"nothing")
    hospital.put("seven.txt", b"nothing")
    report = hospital.intake.process_inbox()
    assert report == IntakeReport(
        added=4, images=5, quarantined={"not_an_image": 2, "not_dicom": 1}
    )
    assert hospital.mirror.class_counts() == {"liver": 3, "spleen": 1}
    assert sorted({facts.source for facts in hospital.mirror.facts(hospital.mirror.ids())}) == [
        "dicom",
        "jpeg",
        "nifti",
        "png",
    ]
    assert sorted(path.suffix for path in hospital.intake.archive.glob("*/*")) == [
        ".dcm",
        ".nii",
        ".png",
        ".png",
    ]
