import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from physical.datasets import DataError, load_dataset
from physical.datasets.fashion_mnist import SHEET, read, read_idx


def _idx(path: Path, array: np.ndarray) -> Path:
    path.write_bytes(
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )
    return path


def test_idx_file_is_read_with_its_shape(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(read_idx(_idx(tmp_path / "a", array)), array)


def test_idx_file_cut_short_is_noticed(tmp_path: Path) -> None:
    path = _idx(tmp_path / "a", np.zeros((2, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="5 values; expected"):
        read_idx(path)
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(DataError, match="cut short"):
        read_idx(path)


def test_file_of_another_form_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PNG.....")
    with pytest.raises(DataError, match="an idx file of bytes"):
        read_idx(tmp_path / "a")


def test_four_files_make_train_and_test(tmp_path: Path, sheet_of: Callable[..., Any]) -> None:
    sheet = sheet_of((), counts={"train": 2, "validation": 0, "test": 2})
    images, labels = np.zeros((2, 4, 4), dtype=np.uint8), np.array([1, 0], dtype=np.uint8)
    paths = {}
    for prefix in ("train", "t10k"):
        paths[f"{prefix}-images-idx3-ubyte"] = _idx(tmp_path / f"{prefix}-i", images)
        paths[f"{prefix}-labels-idx1-ubyte"] = _idx(tmp_path / f"{prefix}-l", labels)
    splits = read(paths, sheet)
    assert splits.train.images.shape == (2, 4, 4, 1)
    assert splits.test.labels.tolist() == [1, 0]
    assert len(splits.validation) == 0


@pytest.mark.data
def test_real_fashion_mnist_has_6000_and_1000_of_each_class() -> None:
    try:
        dataset = load_dataset("fashionmnist")
    except DataError as error:
        pytest.skip(f"Fashion-MNIST cannot be had here: {error}")
    assert np.bincount(dataset.train.labels).tolist() == [6_000] * len(SHEET.class_names)
    assert np.bincount(dataset.test.labels).tolist() == [1_000] * len(SHEET.class_names)
