"""Data sets by name, with their data sheets.

Loading checks everything; a file is fetched where it is not at hand.

``load_dataset("organamnist")`` is all that most callers need. To add a data set: one file with a
sheet and a reader, and one line in ``DATASETS``.
"""

import difflib
from pathlib import Path

from physical.datasets import cifar100, fashion_mnist, organ_mnist, phantom
from physical.datasets.dataset import (
    DataError,
    DataFile,
    DatasetEntry,
    DataSheet,
    ImageDataset,
    data_error,
    digest_of,
    hold_out_validation,
)
from physical.datasets.download import (
    Progress,
    Report,
    fetch_files,
    find_files,
    no_progress,
    silent,
)

DATASETS: dict[str, DatasetEntry] = {
    "organamnist": DatasetEntry(organ_mnist.SHEETS["organamnist"], organ_mnist.read),
    "organcmnist": DatasetEntry(organ_mnist.SHEETS["organcmnist"], organ_mnist.read),
    "organsmnist": DatasetEntry(organ_mnist.SHEETS["organsmnist"], organ_mnist.read),
    "cifar100": DatasetEntry(cifar100.SHEET, cifar100.read),
    "fashionmnist": DatasetEntry(fashion_mnist.SHEET, fashion_mnist.read),
    "phantom_axial": DatasetEntry(phantom.SHEETS["phantom_axial"], organ_mnist.read),
    "phantom_coronal": DatasetEntry(phantom.SHEETS["phantom_coronal"], organ_mnist.read),
    "phantom_sagittal": DatasetEntry(phantom.SHEETS["phantom_sagittal"], organ_mnist.read),
}

__all__ = [
    "DATASETS",
    "DataError",
    "DataFile",
    "DataSheet",
    "DatasetEntry",
    "ImageDataset",
    "entry_of",
    "fetch_dataset",
    "is_at_hand",
    "load_dataset",
]


def entry_of(name: str) -> DatasetEntry:
    """Return a data set's entry.

    Raises:
        DataError: If there is none of that name; a similar one is suggested.
    """
    if name not in DATASETS:
        similar = difflib.get_close_matches(
            name.lower().replace("-", "").replace("_", ""), DATASETS, n=1
        )
        advice = f"did you mean '{similar[0]}'?" if similar else "choose one of these"
        raise data_error("data set", f"'{name}'", "one of " + ", ".join(DATASETS), advice)
    return DATASETS[name]


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    fetch: bool = True,
    holdout_validation: bool = False,
    report: Report = silent,
) -> ImageDataset:
    """Return a data set, its files and arrays checked.

    Args:
        name: A name in ``DATASETS``.
        data_dir: Folder with files of your own; see ``download``.
        fetch: Whether what is not at hand may be fetched.
        holdout_validation: Where a data set has no validation part: move a fixed, stratified tenth
            of train there. Without it, the validation part of such a data set is empty and train is
            whole.
        report: Is told each step in one line.

    Raises:
        DataError: If the name is unknown, a file cannot be had, or something in it is wrong.
    """
    entry = entry_of(name)
    sheet = entry.sheet
    paths = fetch_files(sheet, data_dir, report) if fetch else find_files(sheet, data_dir, report)
    missing = [file.name for file in sheet.files if file.name not in paths]
    if missing:
        raise data_error(
            name,
            f"no file {', '.join(missing)} at hand",
            "all files of the data sheet",
            f"fetch it first: fedka data fetch {name}",
        )
    splits = entry.read(paths, sheet)
    if holdout_validation:
        splits = hold_out_validation(splits)
    return ImageDataset(sheet, splits.train, splits.validation, splits.test, digest_of(sheet.files))


def fetch_dataset(
    name: str,
    data_dir: Path | None = None,
    report: Report = silent,
    progress: Progress = no_progress,
) -> dict[str, Path]:
    """Fetch a data set's files into the cache, unless they are at hand, without reading them.

    Args:
        name: A name in ``DATASETS``.
        data_dir: Folder with files of your own.
        report: Is told each step in one line.
        progress: Is told (file name, bytes so far, bytes in all or None) of a download.

    Returns:
        File name -> path.

    Raises:
        DataError: If the name is unknown or a file can be had nowhere.
    """
    return fetch_files(entry_of(name).sheet, data_dir, report, progress)


def is_at_hand(name: str, data_dir: Path | None = None) -> bool:
    """Return whether all files of a data set are here, with the right digests; nothing is fetched.

    Raises:
        DataError: If the name is unknown, or a file in a folder of yours has the wrong digest.
    """
    sheet = entry_of(name).sheet
    return len(find_files(sheet, data_dir)) == len(sheet.files)
