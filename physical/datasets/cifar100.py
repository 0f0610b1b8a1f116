"""CIFAR-100: 60,000 colour images of 100 classes, 32 x 32 px; the usual continual benchmark.

Reads the official binary form. A record is the coarse label, the fine label, and 3072 bytes of
red, green and blue planes, row by row. Fine labels are used. There is no official validation
split (see ``dataset.hold_out_validation``).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from physical.batch import Batch
from physical.datasets.checks import make_batch
from physical.datasets.dataset import DataFile, DataSheet, Splits, data_error, empty_batch
from physical.datasets.sources import LocalArchive, WebArchive

_RECORD_BYTES = 2 + 3 * 32 * 32
_HOME = "https://www.cs.toronto.edu/~kriz/"

_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
bowl boy bridge bus butterfly camel can castle caterpillar cattle
chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket
rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASS_NAMES = tuple(_NAMES.split())
"""The 100 fine classes in the official order."""

SHEET = DataSheet(
    name="cifar100",
    title="CIFAR-100",
    source=_HOME + "cifar.html",
    licence="none stated by its authors; free to download for research",
    citation=(
        "Krizhevsky, Learning multiple layers of features from tiny images, "
        "technical report, University of Toronto, 2009"
    ),
    description=(
        "Natural colour images of 100 classes, 600 of each, 32 x 32. "
        "Validation, where asked for, is a fixed tenth of train."
    ),
    class_names=CLASS_NAMES,
    counts={"train": 50_000, "validation": 0, "test": 10_000},
    image_size=(32, 32, 3),
    has_left_and_right=False,
    files=(
        DataFile("train.bin", "6172c7755cfe09b2fe270c85cebc1b15", 153_700_000),
        DataFile("test.bin", "4499cfba6c016c1be1438163640a0898", 30_740_000),
    ),
    sources=(
        LocalArchive(("cifar-100-binary.tar.xz", "cifar-100-binary.tar.gz")),
        WebArchive("CIFAR's home at toronto.edu", _HOME + "cifar-100-binary.tar.gz"),
    ),
)


def read(paths: Mapping[str, Path], sheet: DataSheet) -> Splits:
    """Read the two binary files.

    Args:
        paths: Paths of "train.bin" and "test.bin", whose digests have been checked.
        sheet: Expected content.

    Raises:
        DataError: If a file is not a whole number of records or differs from the sheet.
    """
    return Splits(
        train=_read_records(paths["train.bin"], sheet, "train"),
        validation=empty_batch(sheet),
        test=_read_records(paths["test.bin"], sheet, "test"),
    )


def _read_records(path: Path, sheet: DataSheet, split: str) -> Batch:
    data = np.fromfile(path, dtype=np.uint8)
    if len(data) % _RECORD_BYTES:
        raise data_error(
            path,
            f"{len(data):,} bytes",
            f"a multiple of {_RECORD_BYTES:,}, one record an image",
            "fetch it again",
        )
    records = data.reshape(-1, _RECORD_BYTES)
    planes = records[:, 2:].reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return make_batch(images, records[:, 1], sheet, split, path)
