"""One hospital's images on this machine: what the twin mirrors. Pixels are bytes in a database.

Everything is one transaction: an image is here whole or not at all, whatever kills the process.
Adding is idempotent by image id.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from physical.mirror_file import MirrorError, MirrorFile, image_size_of

__all__ = ["MOST_BYTES_AT_ONCE", "DayCount", "ImageFacts", "Mirror", "MirrorError", "MirrorImage"]

MOST_BYTES_AT_ONCE = 1 << 30
"""One call returns no more pixels than this, so that no question of a page can fill the memory."""
_IDS_AT_ONCE = 500
_NAME = "coalesce(decided_name, sent_name)"
_FACTS = f"image_id, arrived, patient, study, {_NAME}, source"


@dataclass(frozen=True)
class ImageFacts:
    """All that the mirror knows of an image but its pixels.

    Args:
        image_id: Stable name of the image that cannot be linked to a patient without the hospital's
            key.
        arrived: When it came, UTC, ISO 8601.
        patient: Pseudonym of the patient.
        study: Pseudonym of the study.
        class_name: What people decided that it shows, else what its sender said; None if nobody
            named it.
        source: Kind of file it came in: "dicom", "png", "jpeg", "nifti".
    """

    image_id: str
    arrived: str
    patient: str
    study: str
    class_name: str | None
    source: str


@dataclass(frozen=True)
class MirrorImage:
    """An image on its way into the mirror.

    Args:
        image_id: Keyed hash of what identifies it (SOP Instance UID and frame, or the file's
            content).
        arrived: When it came, UTC, ISO 8601 with its offset.
        patient: Pseudonym of the patient.
        study: Pseudonym of the study.
        class_name: As its sender named it; None if nobody did.
        pixels: Grey values, windowed and resized, [S, S].
        source: Kind of file it came in.
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
    """How many images of a class came on a day (UTC, "2024-02-19").

    Class name None: without a name.
    """

    day: str
    class_name: str | None
    num_images: int


class Mirror:
    """The images of one hospital.

    Args:
        folder: Where the file lies; made if it is not there.
        image_size: Height and width of each image [px]. A mirror keeps the size it was made with.

    Raises:
        MirrorError: If there is a mirror of another size, or a file that is no mirror.
    """

    def __init__(self, folder: Path, image_size: int = 64) -> None:
        if not 8 <= image_size <= 1024:
            raise MirrorError(
                f"image_size is {image_size}; allowed: 8 to 1024 pixels; choose the size that the "
                "model takes"
            )
        self.folder = folder
        self.image_size = image_size
        self._file = MirrorFile(folder, image_size)

    @classmethod
    def at(cls, folder: Path) -> "Mirror":
        """Open a mirror that is there, whatever its image size.

        Raises:
            MirrorError: If there is none.
        """
        return cls(folder, image_size_of(folder))

    def add(self, images: Sequence[MirrorImage]) -> int:
        """Take images in, all or none; those whose id is here already are left as they are.

        Returns:
            How many were new.

        Raises:
            MirrorError: If one of them is not what it must be; then none is taken.
        """
        rows = [self._row(image) for image in images]
        with self._file.transaction() as connection:
            before = connection.total_changes
            connection.executemany(
                "INSERT INTO images (image_id, arrived, patient, study, sent_name, source, pixels) "
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
            named: True: only images that have a class name; False: only those without one; None:
                all.
            after: Only those that came after this one.

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
                    raise _unknown([after])
                position = row[0]
            query = f"SELECT image_id FROM images WHERE position > ? AND {wanted} ORDER BY position"
            return [name for (name,) in connection.execute(query, (position,))]

    def pixels(self, image_ids: Sequence[str]) -> NDArray[np.uint8]:
        """Return images, in the order asked, [N, S, S].

        Raises:
            MirrorError: If an id is unknown, or the images would not fit in ``MOST_BYTES_AT_ONCE``.
        """
        size = self.image_size
        most = MOST_BYTES_AT_ONCE // (size * size)
        if len(image_ids) > most:
            raise MirrorError(
                f"pixels of {len(image_ids):,} images at once; allowed: {most:,} of {size} x "
                f"{size}; ask for them in parts"
            )
        result = np.empty((len(image_ids), size, size), np.uint8)
        places = _places(image_ids)
        with self._file.reading() as connection:
            for image_id, content in _select(connection, "image_id, pixels", list(places)):
                result[places.pop(image_id)] = np.frombuffer(content, np.uint8).reshape(size, size)
        if places:
            raise _unknown(places)
        return result

    def facts(self, image_ids: Sequence[str]) -> list[ImageFacts]:
        """Return what is known of images, in the order asked, without touching a pixel.

        Raises:
            MirrorError: If an id is unknown.
        """
        places = _places(image_ids)
        with self._file.reading() as connection:
            found = {row[0]: ImageFacts(*row) for row in _select(connection, _FACTS, places)}
        if len(found) < len(places):
            raise _unknown([each for each in places if each not in found])
        return [found[each] for each in image_ids]

    def class_counts(self) -> dict[str, int]:
        """Return class name -> number of images, in the order of the names.

        Images without a name are not counted.
        """
        query = (
            f"SELECT {_NAME}, count(*) FROM images WHERE {_NAME} IS NOT NULL GROUP BY 1 ORDER BY 1"
        )
        with self._file.reading() as connection:
            return dict(connection.execute(query).fetchall())

    def counts_by_day(self) -> list[DayCount]:
        """Return how many images of each class came on each day, the earliest first.

        Days without images are left out.
        """
        query = (
            f"SELECT substr(arrived, 1, 10), {_NAME}, count(*) FROM images GROUP BY 1, 2 ORDER BY "
            "1, 2"
        )
        with self._file.reading() as connection:
            return [DayCount(*row) for row in connection.execute(query)]

    def name(self, image_ids: Sequence[str], class_name: str | None) -> None:
        """Write down what people decided that images show, all or none.

        It stands above what the sender said and does not erase it: None takes the decision back.

        Raises:
            MirrorError: If an id is unknown or the name is empty.
        """
        _check_name(class_name)
        wanted = dict.fromkeys(image_ids)
        with self._file.transaction() as connection:
            changed = 0
            for part in _parts(wanted):
                query = f"UPDATE images SET decided_name = ? WHERE image_id IN ({_marks(part)})"
                changed += connection.execute(query, (class_name, *part)).rowcount
            if changed < len(wanted):
                known = {image_id for (image_id,) in _select(connection, "image_id", wanted)}
                raise _unknown([each for each in wanted if each not in known])

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        self._file.close()

    def _row(self, image: MirrorImage) -> tuple[str, str, str, str, str | None, str, bytes]:
        pixels = np.asarray(image.pixels)
        if pixels.dtype != np.uint8 or pixels.shape != (self.image_size, self.image_size):
            raise MirrorError(
                f"image {image.image_id}: got {pixels.dtype} of shape {pixels.shape}; expected "
                "uint8 of shape "
                f"({self.image_size}, {self.image_size}); window and resize it before"
            )
        if not image.image_id:
            raise MirrorError("an image without an id; expected a keyed hash; give each image one")
        _check_name(image.class_name)
        return (
            image.image_id,
            _utc(image),
            image.patient,
            image.study,
            image.class_name,
            image.source,
            pixels.tobytes(),
        )


def _utc(image: MirrorImage) -> str:
    """Return the time of arrival, checked: days are counted by its first ten letters."""
    try:
        moment = datetime.fromisoformat(image.arrived)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() != timedelta(0):
        raise MirrorError(
            f"image {image.image_id}: arrived is '{image.arrived}'; expected UTC like "
            "2024-02-19T08:30:00+00:00; "
            "use datetime.now(UTC).isoformat()"
        )
    return image.arrived


def _check_name(class_name: str | None) -> None:
    if class_name is not None and (not class_name.strip() or class_name != class_name.strip()):
        raise MirrorError(
            f"class name '{class_name}'; expected no blanks around it and at least a letter, or "
            "None; strip it"
        )


def _places(image_ids: Iterable[str]) -> dict[str, list[int]]:
    """Return for each id where it was asked: an id may be asked twice."""
    places: dict[str, list[int]] = {}
    for place, image_id in enumerate(image_ids):
        places.setdefault(image_id, []).append(place)
    return places


def _select(
    connection: sqlite3.Connection, columns: str, image_ids: Iterable[str]
) -> Iterator[tuple]:  # type: ignore[type-arg]  # any
    for part in _parts(image_ids):
        yield from connection.execute(
            f"SELECT {columns} FROM images WHERE image_id IN ({_marks(part)})", part
        )


def _parts(image_ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Cut a list of ids into pieces that one statement takes."""
    rest = iter(image_ids)
    while part := tuple(islice(rest, _IDS_AT_ONCE)):
        yield part


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _unknown(image_ids: Iterable[str]) -> MirrorError:
    missing = list(image_ids)
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return MirrorError(
        f"mirror: no image {', '.join(missing[:3])}{more}; allowed: ids that Mirror.ids() returns; "
        "ask for those"
    )
