"""File helpers of the intake: atomic durable writes, and reading with a size limit."""

import os
import secrets
from pathlib import Path

PART = ".part"


def write_atomically(path: Path, content: bytes, temporary_folder: Path | None = None) -> None:
    """Write a file atomically so that it survives a power failure; replace an old one.

    Args:
        path: The file.
        content: Its bytes.
        temporary_folder: Folder on the same file system for the half-written file; None: the file's
            own folder.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = (temporary_folder or path.parent) / f".{secrets.token_hex(8)}{PART}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Write a folder's entries to disk, so that they survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_up_to(path: Path, most: int) -> bytes | None:
    """Return a file's bytes; None if it is larger than ``most``. Follow no links.

    Raises:
        OSError: If it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as stream:
        content = stream.read(most + 1)
    return content if len(content) <= most else None


def remove_parts(folder: Path) -> None:
    """Remove half-written files that a killed process left in a folder."""
    for path in folder.glob(f".*{PART}"):
        path.unlink(missing_ok=True)
