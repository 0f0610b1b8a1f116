"""Uploaded image files: checked by their first bytes and stored in a hospital's inbox.

Stored files get random names, so that no name from outside becomes a path. The intake process
reads them later and quarantines those that are broken, too large unpacked or suspicious.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import UploadFile

from federation.console.services import Services, Visitor

_CHUNK = 1024 * 1024
_HEAD = 132  # bytes: DICOM has its signature after a preamble of 128


@dataclass(frozen=True)
class UploadResult:
    """Result for one file.

    Args:
        number: Its place in the request, from 1. File names are left out, as they
            may be patients' names.
        taken: Whether it is in the inbox now.
        why: Why not; empty if it is.
    """

    number: int
    taken: bool
    why: str


def store_uploads(
    services: Services, visitor: Visitor, files: Sequence[UploadFile]
) -> list[UploadResult]:
    """Store uploaded files in the inbox of the visitor's hospital.

    Args:
        services: Services of the app.
        visitor: A clinician.
        files: The uploaded files.

    Returns:
        One result per file, in the same order.

    Raises:
        ValueError: If the visitor belongs to no hospital.
    """
    if visitor.hospital is None:
        raise ValueError("visitor has no hospital; allowed: a clinician of a hospital")
    inbox = services.settings.hospital(visitor.hospital).inbox
    results = []
    for number, file in enumerate(files, 1):
        suffix = _suffix(file.file)
        if suffix is None:
            why = "It is neither DICOM nor PNG nor JPEG, by its first bytes."
            results.append(UploadResult(number, False, why))
            continue
        _store(file.file, inbox, f"web-{secrets.token_hex(16)}{suffix}")
        results.append(UploadResult(number, True, ""))
    num_taken = sum(each.taken for each in results)
    details = {"taken": num_taken, "refused": len(results) - num_taken}
    services.record(visitor, "intake.upload", f"hospital {visitor.hospital}", details)
    return results


def _suffix(stream: BinaryIO) -> str | None:
    """Return the suffix for the format of a file; None if it is not allowed."""
    stream.seek(0)
    head = stream.read(_HEAD)
    stream.seek(0)
    if head[128:132] == b"DICM":
        return ".dcm"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    return ".jpg" if head.startswith(b"\xff\xd8\xff") else None


def _store(stream: BinaryIO, inbox: Path, name: str) -> None:
    """Write a file that appears in the inbox only when it is complete."""
    temporary = inbox / f".{secrets.token_hex(8)}.part"
    try:
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        ) as target:
            while chunk := stream.read(_CHUNK):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(inbox / name)
    finally:
        temporary.unlink(missing_ok=True)
