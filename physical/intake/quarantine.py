"""Quarantine of refused files: each is moved unchanged, with a note beside it.

The files still hold their patients' identity, so folder and files are readable by the owner only.
A note holds a keyed hash of the file's name, which may be a patient's name.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from physical.datasets.refusal import Reason, RefusalError
from physical.intake.files import fsync_folder, write_atomically
from physical.intake.pseudonyms import Pseudonyms

_FILE, _NOTE = ".file", ".json"


@dataclass(frozen=True)
class QuarantineNote:
    """Why a file is in quarantine.

    Args:
        name: Its name in quarantine, without ending.
        reason: Machine-readable cause.
        detail: Message for people.
        original_name: Keyed hash of its path in the inbox.
        time: When it was moved, UTC, ISO 8601.
        sha256: Digest of its content.
        num_bytes: Its size [bytes].
    """

    name: str
    reason: str
    detail: str
    original_name: str
    time: str
    sha256: str
    num_bytes: int


class Quarantine:
    """A folder of refused files, one sub-folder for each reason.

    Args:
        folder: Folder on the inbox's file system; created if missing.
        pseudonyms: Pseudonyms with the hospital's key.
        clock: Function that returns the time in UTC.
    """

    def __init__(self, folder: Path, pseudonyms: Pseudonyms, clock: Callable[[], datetime]) -> None:
        self.folder = folder
        self._pseudonyms = pseudonyms
        self._clock = clock
        self.temporary_folder = folder / ".waiting"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.temporary_folder.mkdir(exist_ok=True)

    def put(self, path: Path, original: str, refusal: RefusalError) -> QuarantineNote:
        """Write a note, then move the file here; a repeated call writes the same note again.

        Args:
            path: The file.
            original: Its path in the inbox.
            refusal: Why it is refused.

        Raises:
            OSError: If it cannot be moved.
        """
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        original_name = self._pseudonyms.of("file name", original)
        name = self._pseudonyms.of("quarantined file", original, digest)
        note = QuarantineNote(
            name,
            refusal.reason.value,
            str(refusal),
            original_name,
            self._clock().isoformat(),
            digest,
            path.stat().st_size,
        )
        home = self.folder / refusal.reason.value
        write_atomically(
            home / (name + _NOTE),
            json.dumps(asdict(note), indent=1).encode(),
            self.temporary_folder,
        )
        with suppress(PermissionError):  # another user's file: the folder's mode must suffice
            path.chmod(0o600)
        path.replace(home / (name + _FILE))
        fsync_folder(home)
        return note

    def notes(self) -> list[QuarantineNote]:
        """Return the notes of all files in quarantine, the oldest first."""
        found = [
            QuarantineNote(**json.loads(path.with_suffix(_NOTE).read_text()))
            for path in self.folder.glob(f"*/*{_FILE}")
        ]
        return sorted(found, key=lambda note: (note.time, note.name))

    def counts(self) -> dict[str, int]:
        """Return reason -> number of files in quarantine."""
        counts = {
            reason.value: len(list((self.folder / reason.value).glob(f"*{_FILE}")))
            for reason in Reason
        }
        return {reason: count for reason, count in counts.items() if count}
