"""The mirror: one hospital's images and facts about them in an SQLite database.

Every change is one transaction, so a killed process leaves no half-written image.
Adding an image id that is already there changes nothing.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physical.mirror_file import MirrorError, MirrorFile, image_size_of

__all__ = ["MAX_BYTES_PER_READ", "DayCount", "ImageFacts", "Mirror", "MirrorError", "MirrorImage"]

MAX_BYTES_PER_READ = 1 << 30
"""Largest amount of pixels that one call returns, so a page request cannot fill the memory."""
_MAX_IDS_PER_STATEMENT = 500
_NAME = "coalesce(decided_name, sent_name)"
_FACTS = f"image_id, arrived, patient, study, {_NAME}, source"


@dataclass(frozen=True)
class ImageFacts:
    """Everything the mirror holds about an image except its pixels.

    Args:
        image_id: Stable id that cannot be linked to a patient without the hospital's key.
        arrived: Time of arrival, UTC, ISO 8601.
        patient: Pseudonym of the patient.
        study: Pseudonym of the study.
        class_name: Name decided by people, else the sender's name; None if there is neither.
        source: Kind of file the image came in: "dicom", "png", "jpeg", "nifti".
    """

    image_id: str
    arrived: str
    patient: str
    study: str
    class_name: str | None
    source: str


@dataclass(frozen=True)
class MirrorImage:
    """An image to be added to the mirror.

    Args:
        image_id: Keyed hash of SOP Instance UID and frame, or of the file's content.
        arrived: Time of arrival, UTC, ISO 8601 with its offset.
        patient: Pseudonym of the patient.
        study: Pseudonym of the study.
        class_name: Class name given by the sender; None if there is none.
        pixels: Grey values, windowed and resized, [S, S].
        source: Kind of file the image came in.
    """

    image_id: str
    arrived: str
    patient: str
    study: str
    class_name: str | None
    pixels: NDArray[np.uint8]
    source: str


@dataclass(frozen=True)
class DayCount:
    """Number of images of a class (None: unnamed) that arrived on a UTC day ("2024-02-19")."""

    day: str
    class_name: str | None
    num_images: int


class Mirror:
    """The image database of one hospital.

    Args:
        folder: Folder of the database file; created if missing.
        image_size: Height and width of each image [px]. A mirror keeps the size it was made with.

    Raises:
        MirrorError: If the file has another image size or is not a mirror.
    """

    def __init__(self, folder: Path, image_size: int = 64) -> None:
        if not 8 <= image_size <= 1024:
            raise MirrorError(
                f"image_size is {image_size}; allowed: 8 to 1024 pixels; "
                "choose the size that the model takes"
            )
        self.folder = folder
        self.image_size = image_size
        self._file = MirrorFile(folder, image_size)

    @classmethod
    def open_existing(cls, folder: Path) -> "Mirror":
        """Open an existing mirror, whatever its image size.

        Raises:
            MirrorError: If there is no mirror in the folder.
        """
        return cls(folder, image_size_of(folder))

    def add(self, images: Sequence[MirrorImage]) -> int:
        """Add images, all or none; images whose id is already stored stay unchanged.

        Returns:
            Number of images that were new.

        Raises:
            MirrorError: If an image is invalid; then none is added.
        """
        rows = [self._checked_row(image) for image in images]
        with self._file.transaction() as connection:
            before = connection.total_changes
            connection.executemany(
                "INSERT INTO images "
                "(image_id, arrived, patient, study, sent_name, source, pixels) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (image_id) DO NOTHING",
                rows,
            )
            return connection.total_changes - before

    def __len__(self) -> int:
        """Return the number of images."""
        with self._file.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM images").fetchone()[0])

    def ids(self, named: bool | None = None, after: str | None = None) -> list[str]:
        """Return image ids in order of arrival.

        Args:
            named: True: only images with a class name; False: only those without; None: all.
            after: Return only images that arrived after this one.

        Raises:
            MirrorError: If ``after`` is unknown.
        """
        wanted = {None: "1", True: f"{_NAME} IS NOT NULL", False: f"{_NAME} IS NULL"}[named]
        with self._file.reading() as connection:
            position = 0
            if after is not None:
                row = connection.execute(
                    "SELECT position FROM images WHERE image_id = ?", (after,)
                ).fetchone()
                if row is None:
                    raise _unknown_ids([after])
                position = row[0]
            query = f"SELECT image_id FROM images WHERE position > ? AND {wanted} ORDER BY position"
            return [name for (name,) in connection.execute(query, (position,))]

    def pixels(self, image_ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return the pixels of images, in the order of the ids, [N, S, S].

        Raises:
            MirrorError: If an id is unknown, or the images would not fit in ``MAX_BYTES_PER_READ``.
        """
        size = self.image_size
        most = MAX_BYTES_PER_READ // (size * size)
        if len(image_ids) > most:
            raise MirrorError(
                f"pixels of {len(image_ids):,} images at once; "
                f"allowed: {most:,} of {size} x {size}; ask for them in parts"
            )
        result = np.empty((len(image_ids), size, size), np.uint8)
        places = _positions_by_id(image_ids)
        with self._file.reading() as connection:
            for image_id, content in _select(connection, "image_id, pixels", list(places)):
                result[places.pop(image_id)] = np.frombuffer(content, np.uint8).reshape(size, size)
        if places:
            raise _unknown_ids(places)
        return result

    def facts(self, image_ids: Sequence[str]) -> list[ImageFacts]:
        """Return the facts about images, in the order of the ids, without reading pixels.

        Raises:
            MirrorError: If an id is unknown.
        """
        places = _positions_by_id(image_ids)
        with self._file.reading() as connection:
            found = {row[0]: ImageFacts(*row) for row in _select(connection, _FACTS, places)}
        if len(found) < len(places):
            raise _unknown_ids([each for each in places if each not in found])
        return [found[each] for each in image_ids]

    def class_counts(self) -> dict[str, int]:
        """Return class name -> number of images, sorted by name; unnamed images are left out."""
        query = (
            f"SELECT {_NAME}, count(*) FROM images WHERE {_NAME} IS NOT NULL GROUP BY 1 ORDER BY 1"
        )
        with self._file.reading() as connection:
            return dict(connection.execute(query).fetchall())

    def counts_by_day(self) -> list[DayCount]:
        """Return the number of images by day and class, earliest day first."""
        query = (
            f"SELECT substr(arrived, 1, 10), {_NAME}, count(*) "
            "FROM images GROUP BY 1, 2 ORDER BY 1, 2"
        )
        with self._file.reading() as connection:
            return [DayCount(*row) for row in connection.execute(query)]

    def set_class_name(self, image_ids: Sequence[str], class_name: str | None) -> None:
        """Record the class name that people decided for images, all or none.

        The decision overrides the sender's name and does not erase it. None withdraws it.

        Raises:
            MirrorError: If an id is unknown or the name is empty.
        """
        _check_name(class_name)
        wanted = dict.fromkeys(image_ids)
        with self._file.transaction() as connection:
            changed = 0
            for part in _id_groups(wanted):
                query = (
                    f"UPDATE images SET decided_name = ? WHERE image_id IN ({_placeholders(part)})"
                )
                changed += connection.execute(query, (class_name, *part)).rowcount
            if changed < len(wanted):
                known = {image_id for (image_id,) in _select(connection, "image_id", wanted)}
                raise _unknown_ids([each for each in wanted if each not in known])

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        self._file.close()

    def _checked_row(self, image: MirrorImage) -> tuple[str, str, str, str, str | None, str, bytes]:
        pixels = np.asarray(image.pixels)
        if pixels.dtype != np.uint8 or pixels.shape != (self.image_size, self.image_size):
            raise MirrorError(
                f"image {image.image_id}: got {pixels.dtype} of shape {pixels.shape}; "
                "expected uint8 of shape "
                f"({self.image_size}, {self.image_size}); window and resize it before"
            )
        if not image.image_id:
            raise MirrorError("an image without an id; expected a keyed hash; give each image one")
        _check_name(image.class_name)
        return (
            image.image_id,
            _checked_arrival(image),
            image.patient,
            image.study,
            image.class_name,
            image.source,
            pixels.tobytes(),
        )


def _checked_arrival(image: MirrorImage) -> str:
    """Return the arrival time, checked to be UTC: days are counted by its first 10 characters."""
    try:
        moment = datetime.fromisoformat(image.arrived)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() != timedelta(0):
        raise MirrorError(
            f"image {image.image_id}: arrived is '{image.arrived}'; "
            "expected UTC like 2024-02-19T08:30:00+00:00; "
            "use datetime.now(UTC).isoformat()"
        )
    return image.arrived


def _check_name(class_name: str | None) -> None:
    if class_name is not None and (not class_name.strip() or class_name != class_name.strip()):
        raise MirrorError(
            f"class name '{class_name}'; expected no blanks around it and at least a letter, "
            "or None; strip it"
        )


def _positions_by_id(image_ids: Iterable[str]) -> dict[str, list[int]]:
    """Return image id -> its positions in the list; an id may occur more than once."""
    places: dict[str, list[int]] = {}
    for place, image_id in enumerate(image_ids):
        places.setdefault(image_id, []).append(place)
    return places


def _select(
    connection: sqlite3.Connection, columns: str, image_ids: Iterable[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield rows of these images, a limited number of ids per statement."""
    for part in _id_groups(image_ids):
        yield from connection.execute(
            f"SELECT {columns} FROM images WHERE image_id IN ({_placeholders(part)})", part
        )


def _id_groups(image_ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Split ids into groups small enough for one SQL statement."""
    rest = iter(image_ids)
    while part := tuple(islice(rest, _MAX_IDS_PER_STATEMENT)):
        yield part


def _placeholders(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _unknown_ids(image_ids: Iterable[str]) -> MirrorError:
    missing = list(image_ids)
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return MirrorError(
        f"mirror: no image {', '.join(missing[:3])}{more}; allowed: ids that Mirror.ids() returns; "
        "ask for those"
    )
