"""Resumable download over HTTP with the standard library.

A download grows in ``NAME.part``. After an interruption the next attempt requests the rest (HTTP
Range) and appends it. One process at a time writes that file; others use a name of their own.
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
"""Limit of a connection or one read, so that a closed network is noticed in seconds."""
_CHUNK_BYTES = 1 << 16
_MOST_ATTEMPTS = 20
_RANGE_NOT_SATISFIABLE = 416

Progress = Callable[[int, int | None], None]


@contextlib.contextmanager
def partial_file(target: Path) -> Iterator[Path]:
    """Lend this process the ``.part`` file of a target, which stays for the next attempt.

    If another process holds it, lend a file with another name, which is removed at the end.
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
    except ImportError:  # no such locks on this system: every process uses a name of its own
        return False
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def download(
    address: str, part: Path, progress: Progress, timeout_seconds: float = TIMEOUT_SECONDS
) -> None:
    """Fetch the missing rest of ``part``.

    A broken connection is opened again as long as each attempt brings at least one byte.

    Args:
        address: http or https.
        part: File that grows; what it holds is not fetched again.
        progress: Called with (bytes so far, bytes in all or None).
        timeout_seconds: Limit of the connection and of each read [s].

    Raises:
        DataError: If the connection ends early; the bytes so far stay in ``part``.
        OSError: If the address cannot be reached or answers with an error.
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
