from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from physical.datasets import DataError, load_dataset
from physical.datasets.dataset import DataFile, new_md5
from physical.datasets.organ_mnist import read, write_npz


def test_file_of_medmnists_form_is_read(
    tmp_path: Path, tiny_arrays: dict[str, NDArray[Any]], sheet_of: Callable[..., Any]
) -> None:
    write_npz(tmp_path / "a.npz", tiny_arrays)
    splits = read({"a.npz": tmp_path / "a.npz"}, sheet_of((DataFile("a.npz", "0" * 32),)))
    assert np.array_equal(splits.validation.images[..., 0], tiny_arrays["val_images"])
    assert splits.train.labels.tolist() == [0, 1, 0, 1]


def _change(
    arrays: dict[str, NDArray[Any]], key: str, value: np.ndarray
) -> dict[str, NDArray[Any]]:
    return arrays | {key: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda arrays: {key: arrays[key] for key in arrays if key != "val_labels"},
            "no array val_labels",
        ),
        (
            lambda arrays: _change(
                arrays, "train_images", arrays["train_images"].astype(np.float32)
            ),
            "train images: got pixels of type float32",
        ),
        (
            lambda arrays: _change(arrays, "test_images", arrays["test_images"][:, :3]),
            "test images: got the shape",
        ),
        (
            lambda arrays: _change(arrays, "test_labels", arrays["test_labels"][:1]),
            "test labels: got the shape",
        ),
        (
            lambda arrays: _change(arrays, "train_labels", arrays["train_labels"] * 7),
            "train labels: got labels from 0 to 7",
        ),
        (
            lambda arrays: _change(arrays, "test_labels", arrays["test_labels"] * 0),
            "test: got no image of dog",
        ),
    ],
)
def test_each_fault_of_a_file_raises_a_data_error(
    tmp_path: Path,
    tiny_arrays: dict[str, NDArray[Any]],
    sheet_of: Callable[..., Any],
    change: Callable[..., Any],
    message: str,
) -> None:
    write_npz(tmp_path / "a.npz", change(tiny_arrays))
    with pytest.raises(DataError, match=message) as caught:
        read({"a.npz": tmp_path / "a.npz"}, sheet_of((DataFile("a.npz", "0" * 32),)))
    assert caught.match(r"got .*; expected .*; \w+")


def test_written_file_depends_on_its_arrays_alone(
    tmp_path: Path, tiny_arrays: dict[str, NDArray[Any]]
) -> None:
    write_npz(tmp_path / "a.npz", tiny_arrays)
    write_npz(tmp_path / "b.npz", tiny_arrays)
    assert new_md5(((tmp_path / "a.npz").read_bytes(),)) == new_md5(
        ((tmp_path / "b.npz").read_bytes(),)
    )
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["train_images"], tiny_arrays["train_images"])


@pytest.mark.data
def test_real_organamnist_has_the_published_counts() -> None:
    try:
        dataset = load_dataset("organamnist")
    except DataError as error:
        pytest.skip(f"OrganAMNIST cannot be had here: {error}")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (
        34_561,
        6_491,
        17_778,
    )
    assert dataset.train.images.shape[1:] == (28, 28, 1)
    assert dataset.digest == "md5:68e3f8846a6bd62f0c9bf841c0d9eacc"
    assert np.bincount(dataset.train.labels)[dataset.sheet.class_names.index("liver")] == 6_164
