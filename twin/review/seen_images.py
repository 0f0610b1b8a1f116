"""Images that triage has judged, in a SQLite file, so that none is judged twice.

It holds what one model saw under one set of rules (the frame). A new champion or other rules are
another frame: everything is forgotten and judged again. It can be lost without harm: cases live in
the review store. Holds no pixels, knows no threshold.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twin.review.novelty_scores import Looks

FILE_NAME = "triage.sqlite"
_BUSY_SECONDS = 30.0
_IDS_AT_ONCE = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS frame (
    one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL, settled TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS images (
    image_id TEXT PRIMARY KEY,
    verdict TEXT NOT NULL,
    case_id INTEGER,
    features BLOB,
    logits BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS images_by_verdict ON images (verdict);
"""


class Verdict(StrEnum):
    """What became of an image."""

    FAMILIAR = "familiar"  # does not look new: only this is kept
    NEW = "new"  # looks new; in a case, or waiting for others like it
    DECIDED = (
        "decided"  # looks new and like a case on which people decided: waits for the next model
    )
    COMPARED = "compared"  # was named or part of a case when others were compared with it


class SeenImages:
    """The memory of one mirror's triage; use it as a context.

    Args:
        folder: The mirror's.
        frame: The model and the rules by which is judged now.
    """

    def __init__(self, folder: Path, frame: str) -> None:
        self._connection = sqlite3.connect(
            folder / FILE_NAME, timeout=_BUSY_SECONDS, isolation_level=None
        )
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._connection.execute(statement)
            with self._transaction():
                if self._connection.execute("SELECT name FROM frame").fetchone() != (frame,):
                    self._connection.execute("DELETE FROM images")
                    self._connection.execute(
                        "INSERT OR REPLACE INTO frame VALUES (1, ?, NULL)", (frame,)
                    )
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    @property
    def settled(self) -> str | None:
        """What the last call left as it was; none where it left something to do."""
        (found,) = self._connection.execute("SELECT settled FROM frame").fetchone()
        return None if found is None else str(found)

    def settle(self, state: str | None) -> None:
        """Write down what this call leaves as it is."""
        self._connection.execute("UPDATE frame SET settled = ?", (state,))

    def ids(self, verdict: Verdict) -> list[str]:
        """Return the images with a verdict."""
        return [
            name
            for (name,) in self._connection.execute(
                "SELECT image_id FROM images WHERE verdict = ?", (verdict,)
            )
        ]

    def decided(self) -> dict[str, int]:
        """Return which decided case each image waits for."""
        return dict(
            self._connection.execute(
                "SELECT image_id, case_id FROM images WHERE verdict = ?", (Verdict.DECIDED,)
            )
        )

    def judged_ids(self) -> set[str]:
        """Return the images on which there is a verdict of triage."""
        return {
            name
            for (name,) in self._connection.execute(
                "SELECT image_id FROM images WHERE verdict <> ?", (Verdict.COMPARED,)
            )
        }

    def keep(self, image_ids: Sequence[str], verdict: Verdict, looks: Looks | None = None) -> None:
        """Write down a verdict, with what was seen where others shall be compared with it."""
        features = (
            [None] * len(image_ids)
            if looks is None
            else [each.tobytes() for each in looks.features]
        )
        logits = (
            [None] * len(image_ids) if looks is None else [each.tobytes() for each in looks.logits]
        )
        rows = [(*row, verdict.value) for row in zip(image_ids, features, logits, strict=True)]
        with self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO images (image_id, features, logits, verdict) VALUES (?, ?, "
                "?, ?)",
                rows,
            )

    def change(
        self, image_ids: Iterable[str], verdict: Verdict, case_id: int | None = None
    ) -> None:
        """Give images another verdict; what was seen stays."""
        with self._transaction():
            rows = [(verdict.value, case_id, image_id) for image_id in image_ids]
            self._connection.executemany(
                "UPDATE images SET verdict = ?, case_id = ? WHERE image_id = ?", rows
            )

    def looks(self, image_ids: Sequence[str], look: Callable[[Sequence[str]], Looks]) -> Looks:
        """Return what the model sees in images, asking only for those of which nothing is kept.

        Args:
            image_ids: Which, at least one.
            look: Has the model look at images.
        """
        kept = self._kept(image_ids)
        missing = [each for each in dict.fromkeys(image_ids) if each not in kept]
        for start in range(0, len(missing), _IDS_AT_ONCE):
            part = missing[start : start + _IDS_AT_ONCE]
            seen = look(part)
            self.keep(part, Verdict.COMPARED, seen)
            kept |= zip(part, zip(seen.features, seen.logits, strict=True), strict=True)
        return Looks(
            np.stack([kept[each][0] for each in image_ids]),
            np.stack([kept[each][1] for each in image_ids]),
        )

    def _kept(
        self, image_ids: Sequence[str]
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        kept: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        for start in range(0, len(image_ids), _IDS_AT_ONCE):
            part = image_ids[start : start + _IDS_AT_ONCE]
            query = (
                "SELECT image_id, features, logits FROM images WHERE features IS NOT NULL AND "
                f"image_id IN ({', '.join('?' * len(part))})"
            )
            for image_id, features, logits in self._connection.execute(query, list(part)):
                kept[image_id] = (
                    np.frombuffer(features, np.float32),
                    np.frombuffer(logits, np.float32),
                )
        return kept

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock, which ends with the process however it ends.

    False where another process or thread holds it.
    """
    with closing(
        sqlite3.connect(folder / "triage.lock", timeout=0, isolation_level=None)
    ) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            yield False
            return
        yield True
