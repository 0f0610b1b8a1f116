"""Long work in child processes: trainings one after another, releases and roll-backs too. Knows no case and no model; a job is a folder.

``FOLDER/ID/{state.json, job.json, progress.jsonl, result.json, log.txt}``. The child reads ``job.json`` and writes the next two; the state
is ours. A child outlives the web process: a new one finds it again by its process id and start time, starts a job again whose process died
while nobody looked, and settles a job that ended then. Settling may happen twice and must not mind.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from federation.console.background_job import MODULES, Job, JobError, Kind
from federation.console.settings import write_private

__all__ = ["Job", "JobError", "Jobs", "Kind"]

_ID = re.compile(r"[a-z_]{1,12}-[0-9]{17}-[0-9a-f]{4}")
_MOST_ATTEMPTS = 3
_LOOK_SECONDS = 0.5
_NICE = 5  # the console answers while a training runs
_MOST_PROGRESS_BYTES = 4 * 1024 * 1024
_log = logging.getLogger("fedka.console.jobs")


class Jobs:
    """The queue.

    Args:
        folder: Holds a folder per job.
        prepare: Job -> content of its ``job.json``, asked for when it starts; raises ``ValueError`` where it cannot be done any more.
        settle: Job, result and queue -> nothing; called after its end, again after a crash.
        clock: The time.
        command: Kind -> command line before the job file.
    """

    def __init__(
        self,
        folder: Path,
        prepare: Callable[[Job], Mapping[str, Any]],
        settle: Callable[[Job, Mapping[str, Any], "Jobs"], None],
        clock: Callable[[], datetime],
        command: Callable[[Kind], Sequence[str]] = lambda kind: (
            sys.executable,
            "-m",
            MODULES[kind],
        ),
    ) -> None:
        self.folder = folder
        self._prepare, self._settle, self._clock, self._command = prepare, settle, clock, command
        self._lock = threading.RLock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._unsettled: set[str] = set()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._watcher: threading.Thread | None = None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(
        self,
        kind: Kind,
        user: str,
        role: str,
        subject: str | None = None,
        reason: str = "",
        version: str | None = None,
    ) -> Job:
        """Put a job into the queue."""
        now = self._clock().astimezone(UTC)
        job_id = f"{kind}-{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}-{secrets.token_hex(2)}"
        job = Job(
            job_id,
            kind,
            subject or job_id,
            user,
            role,
            now.isoformat(timespec="milliseconds"),
            reason=reason,
            version=version,
        )
        with self._lock:
            (self.folder / job_id).mkdir(mode=0o700)
            self._save(job)
        self._wake.set()
        return job

    def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            JobError: If there is none.
        """
        if _ID.fullmatch(job_id):
            with suppress(FileNotFoundError, json.JSONDecodeError, TypeError):
                return Job(**json.loads((self.folder / job_id / "state.json").read_bytes()))
        raise JobError(
            f"there is no job {job_id!r}; the list of trainings shows those that there are"
        )

    def jobs(self, kind: Kind | None = None, subject: str | None = None) -> list[Job]:
        """Return all jobs, newest first."""
        found = []
        for path in self.folder.glob("*/state.json"):
            with suppress(JobError):  # a damaged one must not stop the others
                found.append(self.job(path.parent.name))
        wanted = [
            job for job in found if kind in (None, job.kind) and subject in (None, job.subject)
        ]
        return sorted(wanted, key=lambda job: (job.created, job.job_id), reverse=True)

    def forget(self, kind: Kind) -> None:
        """Remove the settled jobs of a kind of which nobody asks again."""
        for job in self.jobs(kind):
            if job.settled:
                shutil.rmtree(self.folder / job.job_id, ignore_errors=True)

    def progress(self, job_id: str) -> list[dict[str, Any]]:
        """Return what a job has told so far, oldest first; a line that is being written is left out."""
        path = self.folder / self.job(job_id).job_id / "progress.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as stream:
            lines = stream.read(_MOST_PROGRESS_BYTES).split(b"\n")[:-1]
        told = [_read_line(line) for line in lines]
        return [each for each in told if each is not None]

    def result(self, job_id: str) -> dict[str, Any] | None:
        """Return what a job has left; none before its end."""
        try:
            plain = json.loads((self.folder / self.job(job_id).job_id / "result.json").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return plain if isinstance(plain, dict) else None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep waiting jobs waiting while something is decided about them."""
        with self._lock:
            yield

    def step(self) -> bool:
        """Look once: settle what has ended, start what is next.

        Returns:
            Whether anything is waiting or running.
        """
        with self._lock, self._alone() as alone:
            if not alone:
                return False
            for known in reversed(self.jobs()):
                job = self._look_after(known) if known.state == "running" else known
                if job.state in ("done", "failed") and not job.settled:
                    self._settle_now(job)
            jobs = self.jobs()
            busy = {MODULES[job.kind] for job in jobs if job.state == "running"}
            for job in reversed(jobs):
                if job.state == "waiting" and MODULES[job.kind] not in busy:
                    busy.add(MODULES[job.kind])
                    self._start(job)
            jobs = self.jobs()
            running = {job.job_id for job in jobs if job.state == "running"}
            self._children = {
                job_id: child
                for job_id, child in self._children.items()
                if job_id in running or child.poll() is None
            }
            return any(
                job.is_open or not (job.settled or job.job_id in self._unsettled) for job in jobs
            )

    def watch(self, look_after: Callable[[], None] = lambda: None) -> None:
        """Look again and again, in a thread of its own, until ``close``.

        Args:
            look_after: Called after each look.
        """

        def look() -> None:
            while not self._stop.is_set():
                try:
                    self.step()
                    look_after()
                except Exception:
                    _log.exception("looking after the jobs failed; it is tried again")
                self._wake.wait(_LOOK_SECONDS)
                self._wake.clear()

        self._watcher = threading.Thread(target=look, name="jobs", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stop looking. A running child goes on and is found again."""
        self._stop.set()
        self._wake.set()
        if self._watcher is not None:
            self._watcher.join()

    def _start(self, job: Job) -> None:
        folder = self.folder / job.job_id
        job = replace(job, attempts=job.attempts + 1, started=self._now())
        for name in ("progress.jsonl", "result.json"):
            (folder / name).unlink(missing_ok=True)
        try:
            write_private(folder / "job.json", json.dumps(self._prepare(job), indent=1).encode())
            with (folder / "log.txt").open("ab") as log:
                child = subprocess.Popen(
                    [*self._command(job.kind), str(folder / "job.json")],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C in the console's terminal does not end a training
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
        except (ValueError, OSError) as error:
            self._end(job, f"it could not be started: {error}")
            return
        self._children[job.job_id] = child
        process_started = None
        try:
            process = psutil.Process(child.pid)
            process_started = process.create_time()
            process.nice(_NICE)
        except psutil.Error:
            pass  # it has ended already
        self._save(replace(job, state="running", pid=child.pid, process_started=process_started))

    def _look_after(self, job: Job) -> Job:
        child = self._children.get(job.job_id)
        if child is not None:
            code = child.poll()
            if code is None:
                return job
            del self._children[job.job_id]
            return self._end(job, self._error_of(job, code))
        if _is_alive(job):
            return job
        if self.result(job.job_id) is not None:
            return self._end(job, self._error_of(job, 0))
        if job.attempts >= _MOST_ATTEMPTS:
            return self._end(job, f"its process died {job.attempts} times")
        job = replace(job, state="waiting", pid=None, process_started=None)
        self._save(job)
        return job

    def _error_of(self, job: Job, code: int) -> str:
        result = self.result(job.job_id)
        if result is not None and result.get("error"):
            return str(result["error"])
        if code == 0 and result is not None:
            return ""
        ended = (
            f"its process ended with exit code {code}"
            if code >= 0
            else f"its process was ended by signal {-code}"
        )
        last = _last_line(self.folder / job.job_id / "log.txt")
        return f"{ended}: {last}" if last else f"{ended} and left no result"

    def _end(self, job: Job, error: str) -> Job:
        job = replace(job, state="failed" if error else "done", error=error, ended=self._now())
        self._save(job)
        return job

    def _settle_now(self, job: Job) -> None:
        try:
            self._settle(job, self.result(job.job_id) or {}, self)
        except Exception:  # tried again at each look; the other jobs go on
            if job.job_id not in self._unsettled:
                _log.exception("the end of %s could not be settled; it is tried again", job.job_id)
            self._unsettled.add(job.job_id)
            return
        self._unsettled.discard(job.job_id)
        self._save(replace(self.job(job.job_id), settled=True))

    def _save(self, job: Job) -> None:
        write_private(
            self.folder / job.job_id / "state.json", json.dumps(asdict(job), indent=1).encode()
        )

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="milliseconds")

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Of several web processes one looks after the jobs."""
        with (self.folder / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def _is_alive(job: Job) -> bool:
    if job.pid is None:
        return False
    try:
        process = psutil.Process(job.pid)
        same = job.process_started is None or abs(process.create_time() - job.process_started) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _read_line(line: bytes) -> dict[str, Any] | None:
    try:
        plain = json.loads(line)
    except json.JSONDecodeError:
        return None
    return plain if isinstance(plain, dict) else None


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace")[-4000:].split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
