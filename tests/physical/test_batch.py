from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from physical.batch import Batch

NAMES = ("heart", "liver", "lung")


def made(labels: list[int], channels: int = 1) -> Batch:
    images = np.arange(len(labels) * 4 * channels, dtype=np.uint8).reshape(
        len(labels), 2, 2, channels
    )
    return Batch(images, np.array(labels, np.int64), NAMES)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 4, 4, 1), np.float32),
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 2), np.uint8),
        np.zeros((2, 1, 4, 4), np.uint8),
    ],
)
def test_images_of_another_type_or_shape_are_refused(images: np.ndarray) -> None:
    with pytest.raises(
        (ValueError, TypeError), match="uint8"
    ):  # of another type: the type checker may be first
        Batch(images, np.zeros(2, np.int64), NAMES)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1)])
def test_every_image_has_one_label(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected one per image"):
        Batch(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(shape, np.int64), NAMES)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_vocabulary_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match="the vocabulary has 3 names"):
        made([0, label])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_may_be_empty(channels: int) -> None:
    empty = made([], channels)
    assert len(empty) == 0
    assert empty.class_names() == ()


def test_taking_images_keeps_the_asked_order_and_the_vocabulary() -> None:
    batch = made([0, 1, 2, 1])
    taken = batch.take(np.array([3, 0]))
    assert taken.labels.tolist() == [1, 0]
    assert np.array_equal(taken.images, batch.images[[3, 0]])
    assert taken.vocabulary == NAMES


def test_class_names_are_those_that_occur_in_the_order_of_the_vocabulary() -> None:
    assert made([2, 0, 2]).class_names() == ("heart", "lung")


def test_a_batch_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        made([0]).labels = np.ones(1, np.int64)  # type: ignore[misc]  # frozen on purpose
