from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physical.batch import Batch
from physical.hospital import Arrival, Hospital


@pytest.fixture
def archive() -> Batch:
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    return Batch(images, np.arange(10) % 3, ("heart", "liver", "lung"))


@pytest.fixture
def hospital(archive: Batch) -> Hospital:
    arrivals = (
        Arrival(0, np.array([4, 1])),
        Arrival(3, np.array([7])),
        Arrival(3, np.array([9, 2])),
    )
    return Hospital("north", archive, arrivals, joins_at_round=1)


def test_images_arrive_after_one_round_and_up_to_another(hospital: Hospital) -> None:
    assert hospital.new_images(-1, 0).tolist() == [4, 1]
    assert hospital.new_images(0, 2).tolist() == []
    assert hospital.new_images(2, 3).tolist() == [7, 9, 2]
    assert hospital.new_images(-1, 9).tolist() == [4, 1, 7, 9, 2]


def test_nothing_new_is_an_empty_array_of_positions(hospital: Hospital) -> None:
    assert hospital.new_images(3, 9).dtype == np.int64


@given(looks=st.lists(st.integers(0, 12), max_size=6))
def test_every_image_arrives_once_however_often_the_hospital_is_asked(looks: list[int]) -> None:
    archive = Batch(np.zeros((12, 1, 1, 1), np.uint8), np.zeros(12, np.int64), ("heart",))
    hospital = Hospital(
        "north", archive, [Arrival(position, np.array([position])) for position in range(12)]
    )
    moments = [-1, *sorted(looks), 12]
    seen = np.concatenate([hospital.new_images(*pair) for pair in pairwise(moments)])
    assert seen.tolist() == list(range(12))


def test_images_and_labels_are_those_of_the_archive(hospital: Hospital, archive: Batch) -> None:
    positions = np.array([9, 2])
    batch = hospital.images(positions)
    assert batch.images.flatten().tolist() == [9, 2]
    assert batch.labels.tolist() == hospital.labels(positions).tolist() == [0, 2]
    assert hospital.vocabulary == archive.vocabulary


def test_returned_images_are_copies_of_the_archive(hospital: Hospital, archive: Batch) -> None:
    hospital.images(np.array([0])).images[:] = 255
    assert archive.images[0, 0, 0, 0] == 0
