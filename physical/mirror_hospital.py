"""A hospital whose images come from its mirror: what people have named by now is what has arrived.

A simulation knows beforehand what arrives when; a mirror does not. What a round found is written
down beside the mirror, so that a round that is repeated finds the same images, and an image keeps
its position for as long as the twin remembers it.
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

_AT_ONCE = 512


class StreamError(ValueError):
    """A stream file that cannot be read or written: what, got, what to do."""


@dataclass(frozen=True)
class _Found:
    """What a round found: ids, in order of arrival, and the names they had then."""

    round: int
    image_ids: tuple[str, ...]
    names: tuple[str, ...]


class MirrorHospital(Hospital):
    """A physical entity whose images arrive in its mirror.

    Positions count the images in the order in which rounds found them. An image shows what people
    say of it now; if they take a name back, what they said when the twin met it.

    Args:
        hospital_id: Its name in the federation.
        mirror: Its images; those with a name take part.
        stream: File in which rounds are written down; made when first needed.

    Raises:
        StreamError: If the file is damaged.
    """

    def __init__(self, hospital_id: str, mirror: Mirror, stream: Path) -> None:
        nothing = Batch(
            np.empty((0, mirror.image_size, mirror.image_size, 1), np.uint8),
            np.empty(0, np.int64),
            (),
        )
        super().__init__(hospital_id, nothing, ())
        self._mirror, self._stream = mirror, stream
        self._found = _read(stream)
        self._look()

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names that the hospital's image labels point into: as of the last look."""
        return self._names

    def new_images(self, after_round: int, until_round: int) -> NDArray[np.int64]:
        """Return the positions of what was found after one round and up to another.

        The last one looks at the mirror first.
        """
        if until_round > max((each.round for each in self._found), default=-1):
            self._write_down(until_round)
        self._look()
        ends = np.cumsum([0, *(len(each.image_ids) for each in self._found)])
        parts = [
            np.arange(start, end)
            for each, start, end in zip(self._found, ends[:-1], ends[1:], strict=True)
            if after_round < each.round <= until_round
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def images(self, positions: NDArray[np.int64]) -> Batch:
        """Return the images at these positions."""
        ids = [self._ids[position] for position in positions]
        size = self._mirror.image_size
        parts = [np.empty((0, size, size), np.uint8)]
        parts += [
            self._mirror.pixels(ids[start : start + _AT_ONCE])
            for start in range(0, len(ids), _AT_ONCE)
        ]
        return Batch(np.concatenate(parts)[..., None], self._labels[positions], self._names)

    def labels(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels at these positions, without touching a pixel, shape [N]."""
        return self._labels[positions]

    def _write_down(self, round_number: int) -> None:
        """Find what is named and was in no round before."""
        met = {image_id for each in self._found for image_id in each.image_ids}
        new = [image_id for image_id in self._mirror.ids(named=True) if image_id not in met]
        named = {
            fact.image_id: fact.class_name
            for part in _parts(new)
            for fact in self._mirror.facts(part)
        }
        pairs = [
            (image_id, name) for image_id in new if (name := named[image_id]) is not None
        ]  # a name may be taken back meanwhile
        found = _Found(
            round_number, tuple(image_id for image_id, _ in pairs), tuple(name for _, name in pairs)
        )
        _write(self._stream, [*self._found, found])
        self._found = [*self._found, found]

    def _look(self) -> None:
        """Ask the mirror what its images are called now."""
        self._ids = [image_id for each in self._found for image_id in each.image_ids]
        then = [name for each in self._found for name in each.names]
        now = [fact.class_name for part in _parts(self._ids) for fact in self._mirror.facts(part)]
        called = [name or before for name, before in zip(now, then, strict=True)]
        self._names = tuple(sorted(set(called)))
        row = {name: index for index, name in enumerate(self._names)}
        self._labels = np.array([row[name] for name in called], np.int64)


def _parts(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE)]


def _read(stream: Path) -> list[_Found]:
    if not stream.exists():
        return []
    try:
        rounds = [json.loads(line) for line in stream.read_text(encoding="utf-8").splitlines()]
        return [
            _Found(int(each["round"]), tuple(each["image_ids"]), tuple(each["names"]))
            for each in rounds
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise StreamError(
            f"{stream} is not a list of rounds: {error}; restore it from a backup: the twin's "
            "memory points into it"
        ) from error


def _write(stream: Path, found: Sequence[_Found]) -> None:
    beside = stream.with_name(f".{stream.name}.{os.getpid()}")
    lines = [
        json.dumps({"round": each.round, "image_ids": each.image_ids, "names": each.names})
        for each in found
    ]
    stream.parent.mkdir(parents=True, exist_ok=True)
    with beside.open("w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(stream)
