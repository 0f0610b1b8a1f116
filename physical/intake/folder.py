"""The watched folder.

What lands in a hospital's inbox goes into archive and mirror, or into quarantine.

The way of a file: inbox -> claimed (a rename; a sender's next file of the same name is then another
file) -> read -> copy without identity in the archive -> mirror, one transaction -> the claimed file
is removed. Each step can be done twice without harm and the file is removed last, so that a process
that dies at any point loses nothing and doubles nothing: the next one begins with what was claimed.
A file on which processes die again and again goes to quarantine.

One process at a time works on a folder (a lock that dies with its process); others wait for it.
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
from physical.intake.conversion import take
from physical.intake.files import PART, read_up_to, remove_parts, write_whole
from physical.intake.pseudonyms import Pseudonyms
from physical.intake.quarantine import Quarantine
from physical.intake.report import IntakeReport
from physical.mirror import Mirror

READY = ".ready.dcm"
"""Ending of files that appear whole by a rename: they need no second look."""
_UNFINISHED = (PART, ".tmp")
_LOG = logging.getLogger(__name__)
Mark = tuple[int, int, int]


class IntakeError(ValueError):
    """A folder cannot be taken in.

    The message says what, what came, what is allowed and what to do.
    """


class _UnreadableError(Exception):
    """One file cannot be read now; the others can."""


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class FolderIntake:
    """Takes files in from ``folder/inbox``; makes ``archive`` and ``quarantine`` beside it.

    Args:
        folder: The hospital's folder.
        mirror: Where images go.
        pseudonyms: With the hospital's key, always the same one.
        config: How files are taken.
        clock: Tells the time, in UTC.

    Raises:
        IntakeError: If the mirror has another image size, the archive another key, or the folders
            lie on two file systems.
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
        self._mirror, self._pseudonyms, self._config, self._clock = (
            mirror,
            pseudonyms,
            config,
            clock,
        )
        self._claims, self._waiting_room, self._lock = (
            self.inbox / ".taking",
            self.archive / ".waiting",
            folder / ".intake.lock",
        )
        self._seen: dict[Path, tuple[Mark, datetime]] = {}
        for each in (self._claims, self._waiting_room):
            each.mkdir(parents=True, exist_ok=True)
        self._check(folder)

    def look(self) -> IntakeReport:
        """Take in what is complete.

        What has not changed for ``settle_seconds``, and what was renamed into place.

        Raises:
            OSError: If archive, quarantine or mirror cannot be written (``sqlite3.Error`` for the
                mirror); no file is lost.
        """
        with self._alone():
            remove_parts(self._waiting_room)
            remove_parts(self.quarantine.waiting_room)
            report = IntakeReport()
            for claimed, attempt in list(self._left_over()):
                original = str(claimed.relative_to(self._claims / str(attempt)))
                report += self._take(claimed, original, attempt + 1)
            ready, waiting = self._complete()
            for path in ready:
                report += self._take(path, str(path.relative_to(self.inbox)), 1)
                self._seen.pop(path, None)
            unread = len(list(self._left_over()))
            return report + IntakeReport(waiting=waiting + unread)

    def take_all(self, sleep: Callable[[float], object] = time.sleep) -> IntakeReport:
        """Take in what is in the inbox now.

        Two looks, far enough apart to see what is still being written.

        Raises:
            OSError: As ``look``.
        """
        report = self.look()
        if not report.waiting:
            return report
        sleep(self._config.settle_seconds)
        return report + self.look()

    def watch(
        self, stop: threading.Event, tell: Callable[[IntakeReport], None], seconds: float = 1.0
    ) -> None:
        """Look again and again until told to stop.

        A full disk or a locked mirror is logged and tried again.

        Args:
            stop: Ends the watch.
            tell: Is told of each look at which something was taken.
            seconds: Between two looks.
        """
        while not stop.is_set():
            try:
                report = self.look()
                if report.added or report.repeated or report.quarantined:
                    tell(report)
            except (OSError, sqlite3.Error) as error:
                # not its text: it may quote a file's name, which may be a patient's
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
                f"intake {folder}: config.image_size is {self._config.image_size}, the mirror's "
                f"{self._mirror.image_size}; "
                "allowed: the same; correct the config"
            )
        if (
            len({each.stat().st_dev for each in (self.inbox, self.archive, self.quarantine.folder)})
            > 1
        ):
            raise IntakeError(
                f"intake {folder}: inbox, archive and quarantine are on different file systems; "
                "allowed: one, so that files move at "
                "once; mount all of them together"
            )
        key = self.archive / ".key"
        if not key.exists():
            write_whole(key, self._pseudonyms.fingerprint().encode(), self._waiting_room)
        if key.read_text() != self._pseudonyms.fingerprint():
            raise IntakeError(
                f"intake {folder}: the pseudonym key is not the one that the archive was made "
                "with; allowed: that one, or every patient "
                "would appear a second time; restore the key file"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock.open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _left_over(self) -> Iterator[tuple[Path, int]]:
        """Yield what was claimed and not finished, and how often processes died over it."""
        for folder in sorted(each for each in self._claims.iterdir() if each.name.isdecimal()):
            for path in sorted(
                each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()
            ):
                yield path, int(folder.name)

    def _complete(self) -> tuple[list[Path], int]:
        """Return the files that nobody writes to any more, and how many others there are."""
        now = self._clock()
        found: dict[Path, tuple[Mark, datetime]] = {}
        ready = []
        for path, mark in self._scan():
            before = self._seen.get(path)
            since = before[1] if before and before[0] == mark else now
            found[path] = (mark, since)
            if path.name.endswith(READY) or now - since >= timedelta(
                seconds=self._config.settle_seconds
            ):
                ready.append(path)
        self._seen = found
        return ready, len(found) - len(ready)

    def _scan(self) -> Iterator[tuple[Path, Mark]]:
        """Yield regular files in order of their names.

        Hidden and unfinished ones, links and devices are passed over.
        """
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
                with suppress(FileNotFoundError):  # the sender has taken it back
                    facts = path.stat()
                    yield path, (facts.st_size, facts.st_mtime_ns, facts.st_ino)

    def _take(self, path: Path, original: str, attempt: int) -> IntakeReport:
        """Claim a file and bring it to its end."""
        claimed = self._claims / str(attempt) / original
        claimed.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(claimed)
        except FileNotFoundError:  # the sender has taken it back
            return IntakeReport()
        try:
            return self._finish(claimed, original, attempt)
        except _UnreadableError:
            self._put_back(claimed, original)
            return IntakeReport()
        except (OSError, sqlite3.Error):
            self._put_back(claimed, original)
            raise
        finally:
            self._tidy(claimed.parent)
            self._tidy(path.parent)

    def _put_back(self, claimed: Path, original: str) -> None:
        """Set a file aside for the next look. Nobody died over it: this attempt does not count."""
        back = self._claims / "0" / original
        back.parent.mkdir(parents=True, exist_ok=True)
        claimed.rename(back)

    def _finish(self, claimed: Path, original: str, attempt: int) -> IntakeReport:
        try:
            if attempt > self._config.most_attempts:
                raise RefusalError(
                    Reason.READER_DIED,
                    f"file: {attempt - 1} processes died over it; allowed: none; do not open it "
                    "before a specialist has",
                )
            new = self._file_away(self._content(claimed), original)
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
                f"file: got more than {most:,} bytes; allowed: {most:,}; raise limits.file_bytes "
                "if it is wanted",
            )
        return content

    def _file_away(self, content: bytes, original: str) -> int:
        """Put a file into archive and mirror; return how many images the mirror had not."""
        taken = take(
            content, Path(original), self._config, self._pseudonyms, self._clock().isoformat()
        )
        place = self.archive / taken.archive_name
        archived = place.read_bytes() if place.exists() else b""
        if archived != taken.copy:
            if taken.is_other(archived):
                raise RefusalError(
                    Reason.DUPLICATE,
                    "file: got a SOP Instance UID that another image in the archive has; allowed: "
                    "one image for each; ask the sender",
                )
            write_whole(place, taken.copy, self._waiting_room)
        return self._mirror.add(taken.images)

    def _tidy(self, folder: Path) -> None:
        """Remove folders within the claims that have become empty.

        Their names may be patients' names.
        """
        while folder != self._claims and self._claims in folder.parents:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent
