"""Resumable download over HTTP, with the standard library alone. Knows no data set and no address.

A download grows in ``NAME.part``. Where it is cut off, the next attempt asks for the rest (HTTP
Range) and appends. One process at a time may write that file; another one that wants it meanwhile
writes under a name of its own.
"""

import contextlib
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from physical.datasets.dataset import data_error

TIMEOUT_SECONDS = 6.0
"""How long a connection or one read may take: a closed network is noticed in a few seconds."""
_CHUNK_BYTES = 1 << 16
_MOST_ATTEMPTS = 20
_RANGE_NOT_SATISFIABLE = 416

Progress = Callable[[int, int | None], None]


@contextlib.contextmanager
def partial_file(target: Path) -> Iterator[Path]:
    """Give the ``.part`` file of a target, for this process alone.

    It stays for the next attempt unless it is renamed.

    If another process holds it, give one with a name of its own, which is removed at the end.
    """
    part = target.with_name(target.name + ".part")
    with target.with_name(target.name + ".lock").open("ab") as lock:
        if _lock(lock):
            yield part
            return
    handle, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _lock(stream: BinaryIO) -> bool:
    try:
        import fcntl
    except (
        ImportError
    ):  # a system without such locks: every process downloads under a name of its own
        return False
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def download(
    address: str, part: Path, progress: Progress, timeout_seconds: float = TIMEOUT_SECONDS
) -> None:
    """Fetch what is missing of ``part``.

    A connection that breaks is opened again for the rest as long as each attempt brings at least
    one byte.

    Args:
        address: http or https.
        part: File that grows; what it holds is not fetched again.
        progress: Is told (bytes so far, bytes in all or None).
        timeout_seconds: For the connection and for each read.

    Raises:
        DataError: If the connection ends early; what has come stays in ``part``.
        OSError: If the address cannot be reached, or refuses.
    """
    for _ in range(_MOST_ATTEMPTS):
        before = _size(part)
        try:
            total = _fetch_rest(address, part, progress, timeout_seconds)
        except (HTTPException, OSError) as error:
            refused = isinstance(error, urllib.error.HTTPError)
            if refused or _size(part) <= before:
                reason = _reason(error)
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                raise OSError(reason) from error
            continue
        if total is None or _size(part) >= total:
            return
        if _size(part) <= before:
            break
    raise data_error(
        address,
        f"{_size(part):,} bytes, then the end",
        "the whole file",
        "give the same command again: it goes on from there",
    )


def _fetch_rest(address: str, part: Path, progress: Progress, timeout_seconds: float) -> int | None:
    start = _size(part)
    request = urllib.request.Request(
        address, headers={"User-Agent": "fedka", "Accept-Encoding": "identity"}
    )
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=timeout_seconds)
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE or not start:
            raise
        error.close()
        return None  # nothing is left to fetch: the digest decides
    with response:
        goes_on = response.status == 206
        if not goes_on:
            start = 0  # the server sends everything again
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        with part.open("ab" if goes_on else "wb") as stream:
            while chunk := response.read1(_CHUNK_BYTES):
                stream.write(chunk)
                stream.flush()
                start += len(chunk)
                progress(start, total)
    return total


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"answers {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"cannot be reached ({error.reason})"
    return f"cannot be reached ({error or type(error).__name__})"
