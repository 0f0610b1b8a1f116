"""Files on the way in: written whole or not at all, read up to a limit. Knows no content."""

import os
import secrets
from pathlib import Path

PART = ".part"


def write_whole(path: Path, content: bytes, waiting_room: Path | None = None) -> None:
    """Write a file that appears at once and stays after a power failure.

    An old one of the same name is replaced.

    Args:
        path: The file.
        content: Its bytes.
        waiting_room: Folder of the same file system for what is half written; None: the file's own.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = (waiting_room or path.parent) / f".{secrets.token_hex(8)}{PART}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    keep_folder(path.parent)


def keep_folder(folder: Path) -> None:
    """See to it that a folder's entries survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_up_to(path: Path, most: int) -> bytes | None:
    """Return a file's bytes; None if it is larger than ``most``. Links are not followed.

    Raises:
        OSError: If it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as stream:
        content = stream.read(most + 1)
    return content if len(content) <= most else None


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left half written in a waiting room."""
    for path in folder.glob(f".*{PART}"):
        path.unlink(missing_ok=True)
