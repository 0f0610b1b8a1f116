"""Registry of data sets by name, with loading and downloading.

Most callers need ``load_dataset("organamnist")`` only. Files are checked, and downloaded when
missing. To add a data set, write one module with a sheet and a reader and add one line to
``DATASETS``.
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
    "is_available",
    "load_dataset",
]


def entry_of(name: str) -> DatasetEntry:
    """Return the sheet and the reader of a data set.

    Raises:
        DataError: If the name is unknown; a similar one is suggested.
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
    """Return a data set after checking its files and arrays.

    Args:
        name: A name in ``DATASETS``.
        data_dir: Folder with the user's own files; see ``download``.
        fetch: Whether missing files may be downloaded.
        holdout_validation: Where a data set has no validation split: move a fixed, stratified
            tenth of train there. False leaves validation empty and train whole.
        report: Called with one line for each step.

    Raises:
        DataError: If the name is unknown, a file is unavailable, or its content is wrong.
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
    """Download a data set's missing files into the cache, without reading them.

    Args:
        name: A name in ``DATASETS``.
        data_dir: Folder with the user's own files.
        report: Called with one line for each step.
        progress: Called with (file name, bytes so far, bytes in all or None) while downloading.

    Returns:
        File name -> path.

    Raises:
        DataError: If the name is unknown or no source has a file.
    """
    return fetch_files(entry_of(name).sheet, data_dir, report, progress)


def is_available(name: str, data_dir: Path | None = None) -> bool:
    """Return whether all files of a data set are here with the right digests; fetch nothing.

    Raises:
        DataError: If the name is unknown, or a file in the user's folder has a wrong digest.
    """
    sheet = entry_of(name).sheet
    return len(find_files(sheet, data_dir)) == len(sheet.files)
