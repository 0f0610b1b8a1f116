"""Types of a data set: its sheet, files, sources and splits, and the validation hold-out."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from physical.batch import Batch

HOLDOUT_SEED = 1234
"""Seed of the validation hold-out for data sets that have no validation split."""
HOLDOUT_SHARE = 0.1


class DataError(ValueError):
    """Raised for an invalid data set or file; says what, got, expected and what to do."""


def data_error(what: object, got: object, expected: object, what_to_do: str) -> DataError:
    """Return a DataError with the four parts of every message."""
    return DataError(f"{what}: got {got}; expected {expected}; {what_to_do}")


@dataclass(frozen=True)
class DataFile:
    """A file of a data set, as stored unpacked in the cache.

    Args:
        name: File name.
        md5: Digest of its bytes, 32 hexadecimal digits.
        num_bytes: Published size; a file of another size is refused before hashing it.
    """

    name: str
    md5: str
    num_bytes: int | None = None


@dataclass(frozen=True)
class Delivery:
    """Where a source puts files and where it reports progress.

    Args:
        folder: The data set's folder in the cache.
        search: Folders with files of the user or the laboratory, most specific first.
        report: Called with one line for each step.
        progress: Called with (file name, bytes so far, bytes in all or None).
    """

    folder: Path
    search: tuple[Path, ...]
    report: Callable[[str], None]
    progress: Callable[[str, int, int | None], None]


class Source(Protocol):
    """A place to get files from; implementations are in ``sources``."""

    @property
    def title(self) -> str:
        """Name of the place, in a few words."""

    def deliver(self, files: Sequence[DataFile], delivery: Delivery) -> None:
        """Put the files that it has into the delivery's folder, each checked by digest first.

        Raises:
            DataError: If it lacks a file or has another one under that name.
            OSError: If it cannot be reached.
        """


@dataclass(frozen=True)
class DataSheet:
    """Description of a data set, for users and for checking its files.

    Args:
        name: Name in ``DATASETS``.
        title: Its usual name.
        source: Address of its home page.
        licence: Terms of use.
        citation: What to cite.
        description: What the images are and how they came to be.
        class_names: All classes, in the order of the labels.
        counts: Images in "train", "validation" and "test", as published.
        image_size: Height, width [px] and channels.
        has_left_and_right: Whether mirroring an image changes its class.
        files: The files it consists of.
        sources: Where the files can come from, in the order of trying.
    """

    name: str
    title: str
    source: str
    licence: str
    citation: str
    description: str
    class_names: tuple[str, ...]
    counts: Mapping[str, int]
    image_size: tuple[int, int, int]
    has_left_and_right: bool
    files: tuple[DataFile, ...]
    sources: tuple[Source, ...] = field(repr=False)


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set."""

    train: Batch
    validation: Batch
    test: Batch


@dataclass(frozen=True)
class ImageDataset:
    """A data set in memory; ``digest`` identifies the source bytes (see ``digest_of``)."""

    sheet: DataSheet
    train: Batch
    validation: Batch
    test: Batch
    digest: str

    def __post_init__(self) -> None:
        """Check that all splits have the sheet's classes."""
        for part in (self.train, self.validation, self.test):
            if part.vocabulary != self.sheet.class_names:
                raise data_error(
                    self.sheet.name,
                    f"the vocabulary {part.vocabulary}",
                    str(self.sheet.class_names),
                    "build each Batch with sheet.class_names",
                )


@dataclass(frozen=True)
class DatasetEntry:
    """A value of ``DATASETS``: a sheet and the function that reads its files.

    Args:
        sheet: The data sheet.
        read: Function (paths by file name, sheet) -> Splits.
    """

    sheet: DataSheet
    read: Callable[[Mapping[str, Path], DataSheet], Splits]


def empty_batch(sheet: DataSheet) -> Batch:
    """Return a Batch without images, of the sheet's size and classes."""
    return Batch(
        np.zeros((0, *sheet.image_size), dtype=np.uint8),
        np.zeros(0, dtype=np.int64),
        sheet.class_names,
    )


def hold_out_validation(
    splits: Splits, share: float = HOLDOUT_SHARE, seed: int = HOLDOUT_SEED
) -> Splits:
    """Move a stratified share of train to validation; each image stays in exactly one split.

    The choice depends on labels, share and seed only: it is the same for all runs and methods.

    Args:
        splits: Splits whose validation is empty.
        share: Share of each class to move, in (0, 1); at least one image of a class with two.
        seed: Seed of the choice.

    Returns:
        Splits with a smaller train; unchanged splits if there is a validation split already.
    """
    if len(splits.validation):
        return splits
    rng = np.random.default_rng(seed)
    labels = splits.train.labels
    moved: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(positions))), len(positions) - 1)
        moved.append(rng.permutation(positions)[:count])
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.concatenate(moved)] = True
    return replace(
        splits,
        train=splits.train.take(np.flatnonzero(~chosen)),
        validation=splits.train.take(np.flatnonzero(chosen)),
    )


def digest_of(files: Sequence[DataFile]) -> str:
    """Return "md5:..." of a data set's one file, or of the lines "name md5" of its files."""
    if len(files) == 1:
        return f"md5:{files[0].md5}"
    lines = "".join(f"{file.name} {file.md5}\n" for file in files)
    return f"md5:{new_md5((lines.encode(),))}"


def new_md5(chunks: Iterable[bytes]) -> str:
    """Return the MD5 of these bytes, to find damage; it does not protect against attackers."""
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
