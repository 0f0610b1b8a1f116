"""Checks of arrays read from data files: keys, types, shapes, label ranges, class coverage.

Digests are checked before a file is opened (``download``). These checks find sheets that do
not fit their file, and errors in files that a user brings with a digest of their own.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physical.batch import Batch
from physical.datasets.dataset import DataError, DataSheet, data_error

_FETCH_AGAIN = "fetch it again or replace it by the published file"


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return arrays of an npz file; Python objects are refused, so nothing in it is executed.

    Args:
        path: The file.
        keys: Arrays it must have.

    Raises:
        DataError: If it is not an npz file, is damaged, lacks a key or holds Python objects.
    """
    whole = "a whole npz file"
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise data_error(
                    path, "a file that is no npz file, or is cut short", whole, _FETCH_AGAIN
                )
            stream.seek(0)
            archive = np.load(stream, allow_pickle=False)
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise data_error(
                    path,
                    f"no array {', '.join(missing)} (it has {', '.join(archive.files)})",
                    ", ".join(keys),
                    _FETCH_AGAIN,
                )
            return {key: archive[key] for key in keys}
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        if "allow_pickle" in str(error):
            raise data_error(
                path, "Python objects", "plain arrays of numbers", "do not open it; " + _FETCH_AGAIN
            ) from error
        raise data_error(
            path, f"a file that cannot be read ({error}): cut short or damaged", whole, _FETCH_AGAIN
        ) from error


def check_images(
    images: NDArray[Any], size: tuple[int, int, int], what: object
) -> NDArray[np.uint8]:
    """Return images as [N, H, W, C]; grey ones may come without their channel axis.

    Args:
        images: Array that was read.
        size: Height, width [px] and channels that they must have.
        what: Name of the array, for the message.

    Raises:
        DataError: If the type is not uint8 or the shape is another one.
    """
    if images.dtype != np.uint8:
        raise data_error(what, f"pixels of type {images.dtype}", "uint8", _FETCH_AGAIN)
    height, width, channels = size
    if channels == 1 and images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[1:] != size:
        raise data_error(
            what, f"the shape {images.shape}", f"[N, {height}, {width}, {channels}]", _FETCH_AGAIN
        )
    return images


def check_labels(
    labels: NDArray[Any], num_images: int, num_classes: int, what: object
) -> NDArray[np.int64]:
    """Return labels as int64 [N]; they may come as [N, 1].

    Args:
        labels: Array that was read.
        num_images: Expected number of labels.
        num_classes: Labels must lie in 0 to num_classes - 1.
        what: Name of the array, for the message.

    Raises:
        DataError: If they are no integers, too few or too many, or out of range.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise data_error(what, f"labels of type {labels.dtype}", "integers", _FETCH_AGAIN)
    if labels.shape not in ((num_images,), (num_images, 1)):
        raise data_error(
            what,
            f"the shape {labels.shape}",
            f"({num_images},) or ({num_images}, 1): one for each image",
            _FETCH_AGAIN,
        )
    flat = labels.reshape(-1).astype(np.int64)
    if num_images and (flat.min() < 0 or flat.max() >= num_classes):
        raise data_error(
            what,
            f"labels from {flat.min()} to {flat.max()}",
            f"0 to {num_classes - 1}",
            _FETCH_AGAIN,
        )
    return flat


def check_every_class(batch: Batch, what: object) -> None:
    """Check that every class of the vocabulary has an image.

    Raises:
        DataError: If a class of the vocabulary has no image in the batch.
    """
    present = set(np.unique(batch.labels).tolist())
    missing = [name for label, name in enumerate(batch.vocabulary) if label not in present]
    if missing:
        raise data_error(
            what,
            f"no image of {', '.join(missing)}",
            "at least one image of every class",
            _FETCH_AGAIN,
        )


def check_count(batch: Batch, split: str, sheet: DataSheet) -> None:
    """Compare the number of images with the sheet.

    Raises:
        DataError: If it differs.
    """
    if len(batch) != sheet.counts[split]:
        raise data_error(
            f"{sheet.name}, {split}", f"{len(batch)} images", f"{sheet.counts[split]}", _FETCH_AGAIN
        )


def make_batch(
    images: NDArray[Any], labels: NDArray[Any], sheet: DataSheet, split: str, what: object
) -> Batch:
    """Check images and labels of one split against the sheet and return them as a Batch.

    Args:
        images: Pixels as read.
        labels: Labels as read.
        sheet: The data sheet.
        split: "train", "validation" or "test".
        what: File or array that they come from, for messages.

    Raises:
        DataError: If anything differs from the sheet.
    """
    pixels = check_images(images, sheet.image_size, f"{what}, {split} images")
    rows = check_labels(labels, len(pixels), len(sheet.class_names), f"{what}, {split} labels")
    batch = Batch(pixels, rows, sheet.class_names)
    check_every_class(batch, f"{what}, {split}")
    check_count(batch, split, sheet)
    return batch
