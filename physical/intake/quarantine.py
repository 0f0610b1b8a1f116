"""Where files go that cannot be taken: moved as they are, with a note beside each.

The files still hold their patients' identity, so that folder and files are for the owner alone. The
notes hold none: file names may be patients' names, so that a note has the name's keyed hash.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from physical.datasets.refusal import Reason, RefusalError
from physical.intake.files import keep_folder, write_whole
from physical.intake.pseudonyms import Pseudonyms

_FILE, _NOTE = ".file", ".json"


@dataclass(frozen=True)
class QuarantineNote:
    """Why a file is here.

    Args:
        name: Its name in quarantine, without ending.
        reason: The word.
        detail: The sentence.
        original_name: Keyed hash of its path in the inbox.
        time: When it was moved, UTC, ISO 8601.
        sha256: Digest of its content.
        num_bytes: Its size.
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
        folder: On the inbox's file system; made if it is not there.
        pseudonyms: With the hospital's key.
        clock: Tells the time, in UTC.
    """

    def __init__(self, folder: Path, pseudonyms: Pseudonyms, clock: Callable[[], datetime]) -> None:
        self.folder = folder
        self._pseudonyms = pseudonyms
        self._clock = clock
        self.waiting_room = folder / ".waiting"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.waiting_room.mkdir(exist_ok=True)

    def put(self, path: Path, original: str, refusal: RefusalError) -> QuarantineNote:
        """Move a file here. The note comes first.

        If the process dies between the two, the next try writes the same note again.

        Args:
            path: The file.
            original: Its path in the inbox.
            refusal: Why.

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
        write_whole(
            home / (name + _NOTE), json.dumps(asdict(note), indent=1).encode(), self.waiting_room
        )
        with suppress(PermissionError):  # another user's file: the folder alone must do
            path.chmod(0o600)
        path.replace(home / (name + _FILE))
        keep_folder(home)
        return note

    def notes(self) -> list[QuarantineNote]:
        """Return the notes of all files that are here, the oldest first."""
        found = [
            QuarantineNote(**json.loads(path.with_suffix(_NOTE).read_text()))
            for path in self.folder.glob(f"*/*{_FILE}")
        ]
        return sorted(found, key=lambda note: (note.time, note.name))

    def counts(self) -> dict[str, int]:
        """Return reason -> number of files that are here."""
        counts = {
            reason.value: len(list((self.folder / reason.value).glob(f"*{_FILE}")))
            for reason in Reason
        }
        return {reason: count for reason, count in counts.items() if count}
