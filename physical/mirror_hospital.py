"""A hospital whose images come from its mirror: every image that has a class name has arrived.

A simulation knows beforehand what arrives when; a mirror does not. The images found in each
round are therefore recorded in a file beside the mirror. A repeated round finds the same
images, and each image keeps its position for as long as the twin remembers it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from physical.batch import Batch
from physical.hospital import Hospital
from physical.mirror import Mirror

_IDS_PER_QUERY = 512


class StreamError(ValueError):
    """Raised when a stream file cannot be read; says what, got and what to do."""


@dataclass(frozen=True)
class _RoundImages:
    """Images that a round found: ids in order of arrival and their class names at that time."""

    round: int
    image_ids: tuple[str, ...]
    names: tuple[str, ...]


class MirrorHospital(Hospital):
    """A physical entity whose images arrive in its mirror.

    Positions number the images in the order in which rounds found them. An image has its
    current class name, or its name at the time it was found if that has been withdrawn.

    Args:
        hospital_id: Its name in the federation.
        mirror: Image database; images with a class name take part.
        stream: File that records the images of each round; created when first needed.

    Raises:
        StreamError: If the stream file is damaged.
    """

    def __init__(self, hospital_id: str, mirror: Mirror, stream: Path) -> None:
        nothing = Batch(
            np.empty((0, mirror.image_size, mirror.image_size, 1), np.uint8),
            np.empty(0, np.int64),
            (),
        )
        super().__init__(hospital_id, nothing, ())
        self._mirror, self._stream = mirror, stream
        self._rounds = _read_rounds(stream)
        self._refresh_names()

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names that the labels point into, as of the last refresh."""
        return self._names

    def new_images(self, after_round: int, until_round: int) -> NDArray[np.int64]:
        """Return positions of images found in (after_round, until_round], shape [N].

        A round later than all recorded ones first looks for newly named images in the mirror.
        """
        if until_round > max((each.round for each in self._rounds), default=-1):
            self._record_round(until_round)
        self._refresh_names()
        ends = np.cumsum([0, *(len(each.image_ids) for each in self._rounds)])
        parts = [
            np.arange(start, end)
            for each, start, end in zip(self._rounds, ends[:-1], ends[1:], strict=True)
            if after_round < each.round <= until_round
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def images(self, positions: NDArray[np.int64]) -> Batch:
        """Return the images at these positions."""
        ids = [self._ids[position] for position in positions]
        size = self._mirror.image_size
        parts = [np.empty((0, size, size), np.uint8)]
        parts += [
            self._mirror.pixels(ids[start : start + _IDS_PER_QUERY])
            for start in range(0, len(ids), _IDS_PER_QUERY)
        ]
        return Batch(np.concatenate(parts)[..., None], self._labels[positions], self._names)

    def labels(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels at these positions without reading pixels, shape [N]."""
        return self._labels[positions]

    def _record_round(self, round_number: int) -> None:
        """Record the named images that belong to no earlier round."""
        met = {image_id for each in self._rounds for image_id in each.image_ids}
        new = [image_id for image_id in self._mirror.ids(named=True) if image_id not in met]
        named = {
            fact.image_id: fact.class_name
            for part in _id_groups(new)
            for fact in self._mirror.facts(part)
        }
        pairs = [  # a name may have been withdrawn since the ids were read
            (image_id, name) for image_id in new if (name := named[image_id]) is not None
        ]
        found = _RoundImages(
            round_number, tuple(image_id for image_id, _ in pairs), tuple(name for _, name in pairs)
        )
        _write_rounds(self._stream, [*self._rounds, found])
        self._rounds = [*self._rounds, found]

    def _refresh_names(self) -> None:
        """Read the current class names of all recorded images from the mirror."""
        self._ids = [image_id for each in self._rounds for image_id in each.image_ids]
        names_then = [name for each in self._rounds for name in each.names]
        names_now = [
            fact.class_name for part in _id_groups(self._ids) for fact in self._mirror.facts(part)
        ]
        names = [now or then for now, then in zip(names_now, names_then, strict=True)]
        self._names = tuple(sorted(set(names)))
        row = {name: index for index, name in enumerate(self._names)}
        self._labels = np.array([row[name] for name in names], np.int64)


def _id_groups(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _IDS_PER_QUERY] for start in range(0, len(ids), _IDS_PER_QUERY)]


def _read_rounds(stream: Path) -> list[_RoundImages]:
    if not stream.exists():
        return []
    try:
        rounds = [json.loads(line) for line in stream.read_text(encoding="utf-8").splitlines()]
        return [
            _RoundImages(int(each["round"]), tuple(each["image_ids"]), tuple(each["names"]))
            for each in rounds
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise StreamError(
            f"{stream} is not a list of rounds: {error}; "
            "restore it from a backup: the twin's memory points into it"
        ) from error


def _write_rounds(stream: Path, found: Sequence[_RoundImages]) -> None:
    temporary = stream.with_name(f".{stream.name}.{os.getpid()}")
    lines = [
        json.dumps({"round": each.round, "image_ids": each.image_ids, "names": each.names})
        for each in found
    ]
    stream.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(stream)
