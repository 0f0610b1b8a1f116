from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from physical.batch import Batch
from physical.datasets import DataError
from physical.datasets.checks import (
    check_count,
    check_every_class,
    check_images,
    check_labels,
    make_batch,
    read_npz,
)

FOUR_PARTS = r"got .*; expected .*; \w+"


def test_npz_file_is_read_by_its_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.arange(3), two=np.arange(2))
    assert read_npz(tmp_path / "a.npz", ["two"])["two"].tolist() == [0, 1]


def test_a_missing_key_is_named_with_the_existing_ones(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.arange(3))
    with pytest.raises(DataError, match=r"no array two \(it has one\)"):
        read_npz(tmp_path / "a.npz", ["one", "two"])


@pytest.mark.parametrize("kept", [0, 10, 200, 900])
def test_a_truncated_npz_file_raises_a_data_error(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, one=np.arange(300))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=FOUR_PARTS):
        read_npz(path, ["one"])


def test_flipped_bit_inside_an_npz_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, one=np.zeros(1000, dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="cut short or damaged"):
        read_npz(path, ["one"])


def test_python_objects_in_an_npz_file_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        read_npz(tmp_path / "a.npz", ["one"])


def test_single_array_is_no_npz_file(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, np.arange(3))
    with pytest.raises(DataError, match="no npz file"):
        read_npz(tmp_path / "a.npz", ["one"])


def test_grey_images_get_their_channel_axis() -> None:
    assert check_images(np.zeros((2, 4, 4), dtype=np.uint8), (4, 4, 1), "x").shape == (2, 4, 4, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 4, 4), dtype=np.float32), "pixels of type float32; expected uint8"),
        (np.zeros((2, 5, 4), dtype=np.uint8), r"shape \(2, 5, 4, 1\); expected \[N, 4, 4, 1\]"),
        (np.zeros((2, 4, 4, 3), dtype=np.uint8), r"shape \(2, 4, 4, 3\)"),
        (np.zeros(7, dtype=np.uint8), r"shape \(7,\)"),
    ],
)
def test_wrong_images_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check_images(images, (4, 4, 1), "x")
    assert caught.match(FOUR_PARTS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.0, 1.0]), "labels of type float64; expected integers"),
        (np.array([0, 1, 0]), r"shape \(3,\)"),
        (np.array([[0, 1], [1, 0]]), r"shape \(2, 2\)"),
        (np.array([0, 2]), "labels from 0 to 2; expected 0 to 1"),
        (np.array([-1, 1]), "labels from -1 to 1"),
    ],
)
def test_wrong_labels_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check_labels(labels, 2, 2, "x")
    assert caught.match(FOUR_PARTS)


def test_column_of_small_labels_becomes_a_row_of_int64() -> None:
    labels = check_labels(np.array([[1], [0]], dtype=np.uint8), 2, 2, "x")
    assert labels.dtype == np.int64
    assert labels.tolist() == [1, 0]


def test_empty_class_is_named() -> None:
    batch = Batch(np.zeros((2, 4, 4, 1), dtype=np.uint8), np.array([0, 2]), ("cat", "dog", "owl"))
    with pytest.raises(DataError, match="no image of dog"):
        check_every_class(batch, "x")


def test_a_count_that_differs_from_the_sheet_is_refused(sheet_of: Callable[..., Any]) -> None:
    batch = Batch(np.zeros((3, 4, 4, 1), dtype=np.uint8), np.array([0, 1, 1]), ("cat", "dog"))
    with pytest.raises(DataError, match="3 images; expected 4"):
        check_count(batch, "train", sheet_of(()))


def test_arrays_that_fit_the_sheet_become_a_batch(sheet_of: Callable[..., Any]) -> None:
    batch = make_batch(
        np.zeros((2, 4, 4), dtype=np.uint8), np.array([[0], [1]]), sheet_of(()), "test", "x"
    )
    assert batch.images.shape == (2, 4, 4, 1)
    assert batch.class_names() == ("cat", "dog")
