"""The SQLite file of a mirror: made, checked, opened, and shared by threads and processes.

Knows its tables and no image.

Readers never wait for a writer (WAL). A connection is this process's own: one that was made before
a fork is not used after it.
"""

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_NAME = "mirror.sqlite"
_BUSY_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS images (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id TEXT NOT NULL UNIQUE,
    arrived TEXT NOT NULL,
    patient TEXT NOT NULL,
    study TEXT NOT NULL,
    sent_name TEXT,
    decided_name TEXT,
    source TEXT NOT NULL,
    pixels BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS images_by_name ON images (coalesce(decided_name, sent_name), position);
CREATE INDEX IF NOT EXISTS images_by_day
    ON images (substr(arrived, 1, 10), coalesce(decided_name, sent_name));
"""
_OF_PARENTS: list[sqlite3.Connection] = []


class MirrorError(ValueError):
    """The mirror cannot do what was asked.

    The message says what, what came, what is allowed and what to do.
    """


class MirrorFile:
    """The file of one mirror.

    Args:
        folder: Where it lies; made if it is not there.
        image_size: Height and width of the mirror's images [px], kept from the first time on.

    Raises:
        MirrorError: If it is a mirror of another size, or no mirror.
    """

    _connection: sqlite3.Connection
    _finish: "weakref.finalize[[], MirrorFile]"
    _pid: int

    def __init__(self, folder: Path, image_size: int) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)
        self._open()
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO settings VALUES ('image_size', ?)", (str(image_size),)
            )
            (stored,) = connection.execute(
                "SELECT value FROM settings WHERE name = 'image_size'"
            ).fetchone()
        if int(stored) != image_size:
            self.close()
            raise MirrorError(
                f"mirror {folder}: asked for images of {image_size} pixels; it holds images of "
                f"{stored}; "
                f"open it with image_size={stored}, or make a new mirror in another folder"
            )

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        with self._lock:
            self._finish()
            self._pid = 0

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection, one thread at a time."""
        with self._lock:
            if self._pid != os.getpid():
                # The parent's: neither used nor closed here, for that would disturb the parent's
                # locks.
                if self._pid:
                    self._finish.detach()
                    _OF_PARENTS.append(self._connection)
                self._open()
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for changes that are all made or, if anything is raised, none."""
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _open(self) -> None:
        """Open this process's connection: one made before a fork must not be used after it."""
        self._pid = os.getpid()
        connection = sqlite3.connect(
            self._folder / FILE_NAME,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connection = connection
        self._finish = weakref.finalize(self, connection.close)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                "PRAGMA synchronous = FULL"
            )  # whoever hands an image over removes his own copy after this
            with self.transaction():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
        except sqlite3.DatabaseError as error:
            self._finish()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise _no_mirror(self._folder, error) from error


def image_size_of(folder: Path) -> int:
    """Return the image size of a mirror that is there.

    Raises:
        MirrorError: If there is none.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise MirrorError(
            f"mirror {folder}: got no file {FILE_NAME}; expected a mirror; check the folder"
        )
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
        try:
            row = connection.execute(
                "SELECT value FROM settings WHERE name = 'image_size'"
            ).fetchone()
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise _no_mirror(folder, error) from error
    if row is None:
        raise _no_mirror(folder, "it has no image size")
    return int(row[0])


def _no_mirror(folder: Path, why: object) -> MirrorError:
    return MirrorError(
        f"mirror {folder}: {FILE_NAME} is no mirror ({why}); expected one made by this program; "
        "move it away"
    )
