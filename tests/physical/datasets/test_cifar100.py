from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from physical.datasets import DataError, download, load_dataset
from physical.datasets.cifar100 import CLASS_NAMES, SHEET, read
from physical.datasets.dataset import DataSheet


@pytest.fixture
def small_sheet(sheet_of: Callable[..., DataSheet]) -> DataSheet:
    return sheet_of((), counts={"train": 2, "validation": 0, "test": 2}, image_size=(32, 32, 3))


def _record(coarse: int, fine: int, red: int, green: int, blue: int) -> bytes:
    return (
        bytes([coarse, fine]) + bytes([red]) * 1024 + bytes([green]) * 1024 + bytes([blue]) * 1024
    )


def _files(folder: Path, content: bytes) -> dict[str, Path]:
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(content)
    return {name: folder / name for name in ("train.bin", "test.bin")}


def test_record_is_fine_label_and_three_planes(tmp_path: Path, small_sheet: DataSheet) -> None:
    splits = read(_files(tmp_path, _record(9, 0, 1, 2, 3) + _record(9, 1, 4, 5, 6)), small_sheet)
    assert splits.train.labels.tolist() == [0, 1]
    assert splits.train.images[0, 5, 7].tolist() == [1, 2, 3]
    assert splits.test.images[1, 31, 31].tolist() == [4, 5, 6]
    assert len(splits.validation) == 0


def test_pixels_of_a_plane_go_row_by_row(tmp_path: Path, small_sheet: DataSheet) -> None:
    plane = (np.arange(1024) // 32).astype(np.uint8).tobytes()
    splits = read(_files(tmp_path, (b"\0\0" + plane * 3) + (b"\0\1" + plane * 3)), small_sheet)
    assert splits.train.images[0, :, 0, 0].tolist() == list(range(32))


def test_half_a_record_is_noticed(tmp_path: Path, small_sheet: DataSheet) -> None:
    with pytest.raises(DataError, match="multiple of 3,074"):
        read(_files(tmp_path, _record(0, 0, 1, 2, 3)[:-5]), small_sheet)


def test_fine_label_out_of_range_is_noticed(tmp_path: Path, small_sheet: DataSheet) -> None:
    with pytest.raises(DataError, match="labels from 0 to 2"):
        read(_files(tmp_path, _record(0, 0, 1, 2, 3) + _record(0, 2, 4, 5, 6)), small_sheet)


def test_there_are_a_hundred_classes_in_the_alphabets_order() -> None:
    assert len(CLASS_NAMES) == 100
    assert list(CLASS_NAMES) == sorted(CLASS_NAMES)
    assert SHEET.class_names == CLASS_NAMES


@pytest.mark.data
def test_real_cifar100_from_the_laboratorys_folder_has_500_and_100_of_each_class() -> None:
    if not download.LAB_FOLDER.is_dir():
        pytest.skip(f"no folder {download.LAB_FOLDER}")
    try:
        dataset = load_dataset("cifar100", holdout_validation=True)
    except DataError as error:
        pytest.skip(f"CIFAR-100 cannot be had here: {error}")
    assert np.bincount(dataset.train.labels).tolist() == [450] * 100
    assert np.bincount(dataset.validation.labels).tolist() == [50] * 100
    assert np.bincount(dataset.test.labels).tolist() == [100] * 100
    assert dataset.test.images.shape == (10_000, 32, 32, 3)
