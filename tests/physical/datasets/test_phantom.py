from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from physical.datasets import load_dataset
from physical.datasets.phantom import Plane, make_phantom
from physical.datasets.phantom_anatomy import CLASS_NAMES, Shape, make_patient

SMALL = {"train": 14, "val": 1, "test": 5}


@pytest.fixture(scope="module")
def small_axial() -> dict[str, NDArray[Any]]:
    return dict(make_phantom("axial", seed=3, patients=SMALL, slices_per_organ=3))


def _nearest(arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Return for each test image the label of its nearest training image."""
    train, test = (
        arrays[f"{split}_images"].reshape(-1, 784).astype(np.float64) for split in ("train", "test")
    )
    distances = (train**2).sum(1)[None] - 2 * test @ train.T
    labels: NDArray[Any] = arrays["train_labels"][distances.argmin(1), 0]
    return labels


def test_published_phantom_has_its_digest_and_counts() -> None:
    dataset = load_dataset("phantom_axial")  # made here: the cache is empty
    assert dataset.digest == "md5:87acbd01ac3f4a4e72f95dc9c9f9226f"
    assert np.bincount(dataset.train.labels).tolist() == [140] * 11
    assert (len(dataset.validation), len(dataset.test)) == (330, 495)
    assert dataset.sheet.has_left_and_right


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_same_seed_makes_the_same_images_and_another_seed_others(plane: Plane) -> None:
    first, second, other = (
        make_phantom(plane, seed, {"train": 1}, 1)["train_images"] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_phantom_has_organmnists_form(small_axial: dict[str, NDArray[Any]]) -> None:
    assert small_axial["train_images"].shape == (14 * 11 * 3, 28, 28)
    assert small_axial["val_labels"].shape == (33, 1)
    assert all(array.dtype == np.uint8 for array in small_axial.values())


def test_patients_of_one_split_are_not_in_another() -> None:
    parted = make_phantom("axial", 1, {"train": 2, "val": 1, "test": 1}, 1)
    images = np.concatenate([parted[f"{split}_images"] for split in ("train", "val", "test")])
    assert len(np.unique(images.reshape(44, -1), axis=0)) == 44
    # patients are numbered through: the third of three is the one in validation above
    whole = make_phantom("axial", 1, {"train": 3}, 1)["train_images"]
    assert all((whole == image).all((1, 2)).any() for image in parted["val_images"])


def test_phantom_can_be_learned_and_is_not_trivial(small_axial: dict[str, NDArray[Any]]) -> None:
    accuracy = (_nearest(small_axial) == small_axial["test_labels"][:, 0]).mean()
    assert 0.4 < accuracy < 0.95  # chance is 0.09


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_side_is_seen_in_the_image_and_turns_over_with_it(
    small_axial: dict[str, NDArray[Any]], is_mirrored: bool
) -> None:
    side = {
        CLASS_NAMES.index(f"{organ}-{end}"): (organ, end)
        for organ in ("lung", "kidney", "femur")
        for end in ("left", "right")
    }
    paired = np.isin(small_axial["test_labels"][:, 0], list(side))
    images = small_axial["test_images"][paired]
    answers = _nearest(small_axial | {"test_images": images[:, :, ::-1] if is_mirrored else images})
    pairs = [
        (side.get(int(a)), side[int(t)])
        for a, t in zip(answers, small_axial["test_labels"][paired, 0], strict=True)
    ]
    is_right_side = [
        answer[1] == truth[1] for answer, truth in pairs if answer and answer[0] == truth[0]
    ]
    share = 1 - np.mean(is_right_side) if is_mirrored else np.mean(is_right_side)
    assert share > 0.6  # half of them would be chance


def test_patients_differ_and_have_all_organs() -> None:
    one, two = make_patient(1, 0), make_patient(1, 1)
    assert set(one.organs) == set(CLASS_NAMES)
    assert one.half_width != two.half_width
    assert one.organs["kidney-left"][0].centre[0] > 0 > one.organs["kidney-right"][0].centre[0]


def test_the_tangent_of_the_half_angle_gives_a_rotation() -> None:
    cosine, sine = Shape((0, 0, 0), (3, 1, 1), 0, turn=1.0, roughness=0).cosine_and_sine()
    assert (cosine, sine) == (0, 1)
    assert Shape((0, 0, 0), (3, 1, 2), 0, turn=1.0, roughness=0).reach().tolist() == [1, 3, 2]
