"""Files that come by the web go into a hospital's inbox under names of our own; nothing of theirs becomes a path. Knows first bytes only.

Whether a file can be read, is too large unpacked, or hides something is for the intake to find out, which quarantines it with a reason.
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
_HEAD = 132  # bytes: a DICOM file says so after a preamble of 128


@dataclass(frozen=True)
class UploadResult:
    """What became of one file.

    Args:
        number: Its place in the request, from 1; names of files may be names of patients and are not repeated.
        taken: It is in the inbox.
        why: Why not; "" if it is.
    """

    number: int
    taken: bool
    why: str


def take_uploads(
    services: Services, visitor: Visitor, files: Sequence[UploadFile]
) -> list[UploadResult]:
    """Put uploaded files into the inbox of the visitor's hospital.

    Args:
        services: Of the app.
        visitor: A clinician.
        files: As they came.
    """
    if visitor.hospital is None:
        raise ValueError("nobody without a hospital sends images in")
    inbox = services.settings.hospital(visitor.hospital).inbox
    results = []
    for number, file in enumerate(files, 1):
        kind = _kind(file.file)
        if kind is None:
            results.append(
                UploadResult(
                    number, False, "It is neither DICOM nor PNG nor JPEG, by its first bytes."
                )
            )
            continue
        _store(file.file, inbox, f"web-{secrets.token_hex(16)}{kind}")
        results.append(UploadResult(number, True, ""))
    num_taken = sum(each.taken for each in results)
    details = {"taken": num_taken, "refused": len(results) - num_taken}
    services.audit.record(
        visitor.user,
        visitor.role,
        visitor.hospital,
        "intake.upload",
        f"hospital {visitor.hospital}",
        details,
    )
    return results


def _kind(stream: BinaryIO) -> str | None:
    stream.seek(0)
    head = stream.read(_HEAD)
    stream.seek(0)
    if head[128:132] == b"DICM":
        return ".dcm"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    return ".jpg" if head.startswith(b"\xff\xd8\xff") else None


def _store(stream: BinaryIO, inbox: Path, name: str) -> None:
    """Write a file that the intake sees only when it is whole."""
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
