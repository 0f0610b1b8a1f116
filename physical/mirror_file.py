"""The SQLite file of a mirror: schema, creation, checks, connections and transactions.

Threads and processes may share the file. Readers do not wait for writers (WAL mode).
A connection opened before a fork is never used in the child process.
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
_PARENT_CONNECTIONS: list[sqlite3.Connection] = []


class MirrorError(ValueError):
    """Raised for an invalid mirror operation; says what, got, allowed and what to do."""


class MirrorFile:
    """The file of one mirror.

    Args:
        folder: Folder of the file; created if missing.
        image_size: Height and width of the images [px], fixed when the file is created.

    Raises:
        MirrorError: If the file has another image size or is not a mirror.
    """

    _connection: sqlite3.Connection
    _closer: "weakref.finalize[[], MirrorFile]"
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
                f"mirror {folder}: asked for images of {image_size} pixels; "
                f"it holds images of {stored}; "
                f"open it with image_size={stored}, or make a new mirror in another folder"
            )

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            self._closer()
            self._pid = 0

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection to one thread at a time."""
        with self._lock:
            if self._pid != os.getpid():
                if self._pid:  # closing a parent's connection here would drop the parent's locks
                    self._closer.detach()
                    _PARENT_CONNECTIONS.append(self._connection)
                self._open()
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for one transaction; any exception rolls it back."""
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _open(self) -> None:
        """Open a connection for this process, since one made before a fork must not be used."""
        self._pid = os.getpid()
        connection = sqlite3.connect(
            self._folder / FILE_NAME,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connection = connection
        self._closer = weakref.finalize(self, connection.close)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # Senders delete their copy once this returns, so every commit must reach the disk.
            connection.execute("PRAGMA synchronous = FULL")
            with self.transaction():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
        except sqlite3.DatabaseError as error:
            self._closer()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise _not_a_mirror(self._folder, error) from error


def image_size_of(folder: Path) -> int:
    """Return the image size of an existing mirror.

    Raises:
        MirrorError: If there is no mirror in the folder.
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
        raise _not_a_mirror(folder, error) from error
    if row is None:
        raise _not_a_mirror(folder, "it has no image size")
    return int(row[0])


def _not_a_mirror(folder: Path, why: object) -> MirrorError:
    return MirrorError(
        f"mirror {folder}: {FILE_NAME} is no mirror ({why}); expected one made by this program; "
        "move it away"
    )
