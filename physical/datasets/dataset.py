"""What a data set is: its sheet, its files, its images."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from physical.batch import Batch

HOLDOUT_SEED = 1234
"""Seed of the validation images that are taken out of train.

Where a data set has none of its own.
"""
HOLDOUT_SHARE = 0.1


class DataError(ValueError):
    """A data set or one of its files is not what it must be.

    The message has four parts: what, got, expected, what to do.
    """


def data_error(what: object, got: object, expected: object, what_to_do: str) -> DataError:
    """Return a DataError of the four parts that each message of this room has."""
    return DataError(f"{what}: got {got}; expected {expected}; {what_to_do}")


@dataclass(frozen=True)
class DataFile:
    """A file of a data set, as it lies unpacked in the cache.

    Args:
        name: File name.
        md5: Digest of its bytes, 32 hexadecimal digits.
        num_bytes: Its size, where it is published; a file of another size is refused before its
            digest is computed.
    """

    name: str
    md5: str
    num_bytes: int | None = None


@dataclass(frozen=True)
class Delivery:
    """What a source is given: where to put files, where else to look, and whom to tell.

    Args:
        folder: The data set's folder in the cache.
        search: Folders that a person or a laboratory has filled, first the most specific.
        report: Is told each step in one line.
        progress: Is told (file name, bytes so far, bytes in all or None).
    """

    folder: Path
    search: tuple[Path, ...]
    report: Callable[[str], None]
    progress: Callable[[str, int, int | None], None]


class Source(Protocol):
    """A place that files can come from. Each one is a small frozen dataclass in ``sources``."""

    @property
    def title(self) -> str:
        """Say what the place is, in a few words."""

    def deliver(self, files: Sequence[DataFile], delivery: Delivery) -> None:
        """Put as many of the files as it has into the delivery's folder.

        Each checked by digest before it appears there.

        Raises:
            DataError: If it has them not, or not these.
            OSError: If it cannot be reached.
        """


@dataclass(frozen=True)
class DataSheet:
    """What a person should know before using a data set, and what the program checks it against.

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
        sources: Where they can come from, in the order in which they are tried.
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
    """The three parts of a data set, as a reader finds them in the files."""

    train: Batch
    validation: Batch
    test: Batch


@dataclass(frozen=True)
class ImageDataset:
    """A data set in memory.

    ``digest`` names the exact source bytes: "md5:..." (see ``digest_of``).
    """

    sheet: DataSheet
    train: Batch
    validation: Batch
    test: Batch
    digest: str

    def __post_init__(self) -> None:
        """Check that all parts speak of the same classes."""
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
    """One line of ``DATASETS``: a sheet, and the function that reads its files.

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
    """Move a stratified share of train to validation; each image is in exactly one of the two.

    Which images move depends on labels, share and seed alone, so that it is the same in every run
    and for every method.

    Args:
        splits: Parts whose validation is empty.
        share: Part of each class that moves, between 0 and 1; at least one image of each class that
            has two.
        seed: Seed of the choice.

    Returns:
        The parts with a smaller train; the splits as they are where they already have a validation
        part.
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
    """Return "md5:..." of a data set.

    Of its one file, or of the list "name md5" of its files, one a line.
    """
    if len(files) == 1:
        return f"md5:{files[0].md5}"
    lines = "".join(f"{file.name} {file.md5}\n" for file in files)
    return f"md5:{new_md5((lines.encode(),))}"


def new_md5(chunks: Iterable[bytes]) -> str:
    """Return the MD5 of these bytes; it finds damage, it is no protection against an attacker."""
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
