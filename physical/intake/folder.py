"""Watches a hospital's inbox: each file goes to archive and mirror, or to quarantine.

Steps of a file:

1. It is renamed from the inbox to the claims folder, so that a sender may reuse its name.
2. It is read, and a copy without identity is written to the archive.
3. Its images are added to the mirror in one transaction.
4. The claimed file is removed.

Each step may be repeated without harm and the file is removed last. A process killed at any
point therefore loses and duplicates nothing: the next one starts with the claimed files. A file
that has killed several processes goes to quarantine.

One process at a time works on a folder, under a file lock that ends with the process.
"""

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from physical.datasets.refusal import Reason, RefusalError
from physical.intake.config import IntakeConfig
from physical.intake.conversion import convert_file
from physical.intake.files import PART, read_up_to, remove_parts, write_atomically
from physical.intake.pseudonyms import Pseudonyms
from physical.intake.quarantine import Quarantine
from physical.intake.report import IntakeReport
from physical.mirror import Mirror

READY_ENDING = ".ready.dcm"
"""Ending of files that appear whole by a rename and need no settling time."""
_UNFINISHED = (PART, ".tmp")
_LOG = logging.getLogger(__name__)
FileVersion = tuple[int, int, int]


class IntakeError(ValueError):
    """Raised for unusable folders or settings; says what, got, allowed and what to do."""


class _UnreadableError(Exception):
    """Raised for a file that cannot be read now, while others can."""


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class FolderIntake:
    """Processes files from ``folder/inbox``, with ``archive`` and ``quarantine`` beside it.

    Args:
        folder: The hospital's folder.
        mirror: Image database that receives the images.
        pseudonyms: Pseudonyms with the hospital's key, which must stay the same.
        config: Intake configuration.
        clock: Function that returns the time in UTC.

    Raises:
        IntakeError: If the mirror has another image size, the archive another key, or the
            folders lie on two file systems.
    """

    def __init__(
        self,
        folder: Path,
        mirror: Mirror,
        pseudonyms: Pseudonyms,
        config: IntakeConfig,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.inbox, self.archive = folder / "inbox", folder / "archive"
        self.quarantine = Quarantine(folder / "quarantine", pseudonyms, clock)
        self._mirror, self._pseudonyms = mirror, pseudonyms
        self._config, self._clock = config, clock
        self._claims, self._temporary_folder = self.inbox / ".taking", self.archive / ".waiting"
        self._lock = folder / ".intake.lock"
        self._seen: dict[Path, tuple[FileVersion, datetime]] = {}
        for each in (self._claims, self._temporary_folder):
            each.mkdir(parents=True, exist_ok=True)
        self._check(folder)

    def process_inbox(self) -> IntakeReport:
        """Process complete files: unchanged for ``settle_seconds``, or renamed into place.

        Raises:
            OSError: If archive or quarantine cannot be written; no file is lost.
            sqlite3.Error: If the mirror cannot be written; no file is lost.
        """
        with self._exclusive_access():
            remove_parts(self._temporary_folder)
            remove_parts(self.quarantine.temporary_folder)
            report = IntakeReport()
            for claimed, attempt in list(self._unfinished_claims()):
                original = str(claimed.relative_to(self._claims / str(attempt)))
                report += self._claim_and_process(claimed, original, attempt + 1)
            ready, waiting = self._settled_files()
            for path in ready:
                report += self._claim_and_process(path, str(path.relative_to(self.inbox)), 1)
                self._seen.pop(path, None)
            unread = len(list(self._unfinished_claims()))
            return report + IntakeReport(waiting=waiting + unread)

    def process_all(self, sleep: Callable[[float], object] = time.sleep) -> IntakeReport:
        """Process everything in the inbox now, waiting once for files still being written.

        Raises:
            OSError: As ``process_inbox``.
        """
        report = self.process_inbox()
        if not report.waiting:
            return report
        sleep(self._config.settle_seconds)
        return report + self.process_inbox()

    def watch(
        self, stop: threading.Event, on_report: Callable[[IntakeReport], None], seconds: float = 1.0
    ) -> None:
        """Process the inbox repeatedly; a full disk or a locked mirror is logged and retried.

        Args:
            stop: Event that ends the watch.
            on_report: Called with the report of each pass that processed a file.
            seconds: Time between two passes [s].
        """
        while not stop.is_set():
            try:
                report = self.process_inbox()
                if report.added or report.repeated or report.quarantined:
                    on_report(report)
            except (OSError, sqlite3.Error) as error:
                # Without the error's text, which may quote a file's name, a patient's perhaps.
                _LOG.warning(
                    "intake stopped by %s (%s); trying again in %g s",
                    type(error).__name__,
                    getattr(error, "errno", ""),
                    seconds,
                )
            stop.wait(seconds)

    def _check(self, folder: Path) -> None:
        if self._mirror.image_size != self._config.image_size:
            raise IntakeError(
                f"intake {folder}: config.image_size is {self._config.image_size}, "
                f"the mirror's {self._mirror.image_size}; "
                "allowed: the same; correct the config"
            )
        if (
            len({each.stat().st_dev for each in (self.inbox, self.archive, self.quarantine.folder)})
            > 1
        ):
            raise IntakeError(
                f"intake {folder}: inbox, archive and quarantine are on different file systems; "
                "allowed: one, so that files move at once; mount all of them together"
            )
        key = self.archive / ".key"
        if not key.exists():
            write_atomically(key, self._pseudonyms.fingerprint().encode(), self._temporary_folder)
        if key.read_text() != self._pseudonyms.fingerprint():
            raise IntakeError(
                f"intake {folder}: the pseudonym key is not the one that the archive was made "
                "with; "
                "allowed: that one, or every patient would appear a second time; "
                "restore the key file"
            )

    @contextmanager
    def _exclusive_access(self) -> Iterator[None]:
        with self._lock.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _unfinished_claims(self) -> Iterator[tuple[Path, int]]:
        """Yield claimed unfinished files and the number of processes that died on each."""
        for folder in sorted(each for each in self._claims.iterdir() if each.name.isdecimal()):
            for path in sorted(
                each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()
            ):
                yield path, int(folder.name)

    def _settled_files(self) -> tuple[list[Path], int]:
        """Return the files that have settled, and the number of the others."""
        now = self._clock()
        found: dict[Path, tuple[FileVersion, datetime]] = {}
        ready = []
        for path, version in self._scan():
            before = self._seen.get(path)
            since = before[1] if before and before[0] == version else now
            found[path] = (version, since)
            if path.name.endswith(READY_ENDING) or now - since >= timedelta(
                seconds=self._config.settle_seconds
            ):
                ready.append(path)
        self._seen = found
        return ready, len(found) - len(ready)

    def _scan(self) -> Iterator[tuple[Path, FileVersion]]:
        """Yield regular files sorted by name, without hidden, unfinished and linked ones."""
        for folder, folders, names in os.walk(self.inbox):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            for name in sorted(names):
                path = Path(folder) / name
                if (
                    name.startswith(".")
                    or name.endswith(_UNFINISHED)
                    or path.is_symlink()
                    or not path.is_file()
                ):
                    continue
                with suppress(FileNotFoundError):  # the sender has removed it
                    facts = path.stat()
                    yield path, (facts.st_size, facts.st_mtime_ns, facts.st_ino)

    def _claim_and_process(self, path: Path, original: str, attempt: int) -> IntakeReport:
        """Claim a file and process it."""
        claimed = self._claims / str(attempt) / original
        claimed.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(claimed)
        except FileNotFoundError:  # the sender has removed it
            return IntakeReport()
        try:
            return self._process_claimed(claimed, original, attempt)
        except _UnreadableError:
            self._return_for_retry(claimed, original)
            return IntakeReport()
        except (OSError, sqlite3.Error):
            self._return_for_retry(claimed, original)
            raise
        finally:
            self._remove_empty_folders(claimed.parent)
            self._remove_empty_folders(path.parent)

    def _return_for_retry(self, claimed: Path, original: str) -> None:
        """Return a claimed file for the next pass without counting this attempt."""
        back = self._claims / "0" / original
        back.parent.mkdir(parents=True, exist_ok=True)
        claimed.rename(back)

    def _process_claimed(self, claimed: Path, original: str, attempt: int) -> IntakeReport:
        try:
            if attempt > self._config.most_attempts:
                raise RefusalError(
                    Reason.READER_DIED,
                    f"file: {attempt - 1} processes died over it; allowed: none; "
                    "do not open it before a specialist has",
                )
            new = self._archive_and_mirror(self._content(claimed), original)
        except RefusalError as refusal:
            self.quarantine.put(claimed, original, refusal)
            return IntakeReport(quarantined={refusal.reason.value: 1})
        claimed.unlink()
        return IntakeReport(added=1, images=new) if new else IntakeReport(repeated=1)

    def _content(self, claimed: Path) -> bytes:
        most = self._config.limits.file_bytes
        try:
            content = read_up_to(claimed, most)
        except OSError as error:
            raise _UnreadableError from error
        if content is None:
            raise RefusalError(
                Reason.TOO_LARGE,
                f"file: got more than {most:,} bytes; allowed: {most:,}; "
                "raise limits.file_bytes if it is wanted",
            )
        return content

    def _archive_and_mirror(self, content: bytes, original: str) -> int:
        """Write a file to archive and mirror; return the number of images new to the mirror."""
        converted = convert_file(
            content, Path(original), self._config, self._pseudonyms, self._clock().isoformat()
        )
        place = self.archive / converted.archive_name
        archived = place.read_bytes() if place.exists() else b""
        if archived != converted.copy:
            if converted.differs_from_archived(archived):
                raise RefusalError(
                    Reason.DUPLICATE,
                    "file: got a SOP Instance UID that another image in the archive has; "
                    "allowed: one image for each; ask the sender",
                )
            write_atomically(place, converted.copy, self._temporary_folder)
        return self._mirror.add(converted.images)

    def _remove_empty_folders(self, folder: Path) -> None:
        """Remove empty folders of claims: their names may be patients' names."""
        while folder != self._claims and self._claims in folder.parents:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent
