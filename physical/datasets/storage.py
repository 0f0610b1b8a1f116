"""The cache of data files: its folder, digests, and writing files whole or not at all.

Two processes may write the same file at once: each uses a temporary name and renames it when the
digest is right, so that a reader sees the old file, the new file, or none.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from physical.datasets.dataset import DataFile, data_error, new_md5

_CHUNK_BYTES = 1 << 20


def cache_folder() -> Path:
    """Return the program's folder for data files: $XDG_CACHE_HOME/fedka, or ~/.cache/fedka."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "fedka"


def chunks_of(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in pieces that fit in memory."""
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def check_file(
    path: Path, file: DataFile, advice: str = "remove the file or replace it by the published one"
) -> None:
    """Compare a file's size and digest with the expected ones.

    Args:
        path: The file.
        file: Expected size and digest.
        advice: What a person should do if they differ.

    Raises:
        DataError: If one differs.
        OSError: If it cannot be read.
    """
    size = path.stat().st_size
    if file.num_bytes is not None and size != file.num_bytes:
        hint = " (cut short?)" if size < file.num_bytes else ""
        raise data_error(
            path, f"{size:,} bytes{hint}", f"{file.num_bytes:,} bytes, md5 {file.md5}", advice
        )
    digest = new_md5(chunks_of(path))
    if digest != file.md5:
        raise data_error(path, f"md5 {digest}", f"md5 {file.md5}", advice)


def store(file: DataFile, folder: Path, chunks: Iterable[bytes]) -> Path:
    """Write bytes to ``folder / file.name``; the file appears only if its digest is right.

    Args:
        file: Name and digest.
        folder: Where to write; created if missing.
        chunks: The bytes.

    Returns:
        The file's path.

    Raises:
        DataError: If the digest differs; nothing is left behind.
        OSError: If it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{file.name}.", suffix=".new", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
        return move_into_place(temporary, file, folder)
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, file: DataFile, folder: Path) -> Path:
    """Check a finished temporary file in ``folder`` and rename it to its final name.

    Raises:
        DataError: If its digest differs; the temporary file stays where it is.
    """
    check_file(
        temporary, file, "nothing of it was kept: try again, or get the published file by hand"
    )
    temporary.chmod(0o644)
    target = folder / file.name
    temporary.replace(target)
    return target
