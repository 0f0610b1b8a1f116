"""Fashion-MNIST: 70,000 grey images of ten kinds of clothing, 28 x 28 px; a quick benchmark.

Reads the four idx files. Digests are those of the unpacked bytes, because packages compress the
files anew. There is no official validation split (see ``dataset.hold_out_validation``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physical.batch import Batch
from physical.datasets.checks import make_batch
from physical.datasets.dataset import DataFile, DataSheet, Splits, data_error, empty_batch
from physical.datasets.sources import SystemFolder, WebFiles

_HOME = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FILES = (
    DataFile("train-images-idx3-ubyte", "f4a8712d7a061bf5bd6d2ca38dc4d50a", 47_040_016),
    DataFile("train-labels-idx1-ubyte", "9018921c3c673c538a1fc5bad174d6f9", 60_008),
    DataFile("t10k-images-idx3-ubyte", "8181f5470baa50b63fa0f6fddb340f0a", 7_840_016),
    DataFile("t10k-labels-idx1-ubyte", "15d484375f8d13e6eb1aabb0c3f46965", 10_008),
)
_UNSIGNED_BYTE = 8

SHEET = DataSheet(
    name="fashionmnist",
    title="Fashion-MNIST",
    source="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    citation=(
        "Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking "
        "machine learning algorithms, arXiv:1708.07747, 2017"
    ),
    description=(
        "Grey images of ten kinds of clothing, 28 x 28. "
        "Validation, where asked for, is a fixed tenth of train."
    ),
    class_names=(
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle-boot",
    ),
    counts={"train": 60_000, "validation": 0, "test": 10_000},
    image_size=(28, 28, 1),
    has_left_and_right=False,
    files=_FILES,
    sources=(
        SystemFolder(
            Path("/usr/share/datasets/fashion-mnist"),
            "on Debian or Ubuntu: apt-get install dataset-fashion-mnist",
        ),
        WebFiles(
            "Zalando's address",
            {file.name: f"{_HOME}{file.name}.gz" for file in _FILES},
            packed=True,
        ),
    ),
)


def read(paths: Mapping[str, Path], sheet: DataSheet) -> Splits:
    """Read the four idx files.

    Args:
        paths: Paths by file name in the sheet; their digests have been checked.
        sheet: Expected content.

    Raises:
        DataError: If a file is not an idx file of bytes or differs from the sheet.
    """
    return Splits(
        train=_read_split(paths, sheet, "train", "train"),
        validation=empty_batch(sheet),
        test=_read_split(paths, sheet, "test", "t10k"),
    )


def _read_split(paths: Mapping[str, Path], sheet: DataSheet, split: str, prefix: str) -> Batch:
    images, labels = (
        paths[f"{prefix}-{kind}"] for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    return make_batch(read_idx(images), read_idx(labels), sheet, split, images)


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array of an idx file of unsigned bytes.

    The format: two zero bytes, the type (8: unsigned byte), the number of axes, each axis's
    length in four bytes with the highest first, then the values.

    Raises:
        DataError: If it is not such a file.
    """
    data = path.read_bytes()
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE:
        raise data_error(
            path,
            f"the first bytes {data[:4].hex(' ')}",
            "00 00 08: an idx file of bytes",
            "replace it by the published file",
        )
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise data_error(
            path,
            f"{len(data)} bytes",
            f"at least {start} bytes, its head",
            "fetch it again: it was cut short",
        )
    shape = tuple(int(length) for length in np.frombuffer(data[4:start], dtype=">u4"))
    if len(data) - start != int(np.prod(shape)):
        raise data_error(
            path,
            f"{len(data) - start:,} values",
            f"{shape}: {int(np.prod(shape)):,} values",
            "fetch it again: it was cut short",
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
