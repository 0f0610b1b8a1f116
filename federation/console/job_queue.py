"""The queue of background jobs: trainings, releases and roll-backs, each in a child process.

A job is a folder with ``state.json``, ``job.json``, ``progress.jsonl``, ``result.json`` and
``log.txt``. The child reads ``job.json`` and writes progress and result; the queue writes the rest.

A child outlives the web process. The next web process finds it by process id and start time. It
starts a job again whose process has died, and settles a job that ended in the meantime. Settling
may happen twice, so it must be idempotent.
"""

import fcntl
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
from federation.console.files import json_lines, read_json, write_json

__all__ = ["Job", "JobError", "JobQueue", "Kind"]

_ID = re.compile(r"[a-z_]{1,12}-[0-9]{17}-[0-9a-f]{4}")
_MOST_ATTEMPTS = 3
_POLL_SECONDS = 0.5
_NICE = 5  # lower priority, so that the console answers while a training runs
_MOST_PROGRESS_BYTES = 4 * 1024 * 1024
_log = logging.getLogger("fedka.console.jobs")


def _module_command(kind: Kind) -> Sequence[str]:
    return (sys.executable, "-m", MODULES[kind])


class JobQueue:
    """The queue of background jobs.

    Args:
        folder: Holds one folder per job.
        prepare: Returns the content of ``job.json`` when a job starts; raises ``ValueError`` if
            the job cannot be done any more.
        settle: Carries out the consequences of a job's end, from job, result and queue; called
            again after a crash.
        clock: Returns the time.
        command: Returns the command line for a kind, without the path of the job file.
    """

    def __init__(
        self,
        folder: Path,
        prepare: Callable[[Job], Mapping[str, Any]],
        settle: Callable[[Job, Mapping[str, Any], "JobQueue"], None],
        clock: Callable[[], datetime],
        command: Callable[[Kind], Sequence[str]] = _module_command,
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
        """Put a job into the queue and return it; arguments are those of ``Job``."""
        now = self._clock().astimezone(UTC)
        job_id = f"{kind}-{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}-{secrets.token_hex(2)}"
        created = now.isoformat(timespec="milliseconds")
        job = Job(
            job_id, kind, subject or job_id, user, role, created, reason=reason, version=version
        )
        with self._lock:
            (self.folder / job_id).mkdir(mode=0o700)
            self._save(job)
        self._wake.set()
        return job

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            JobError: If there is none.
        """
        if _ID.fullmatch(job_id):
            plain = read_json(self.folder / job_id / "state.json")
            with suppress(TypeError):  # a damaged file lacks fields
                return Job(**(plain or {}))
        raise JobError(f"there is no job {job_id!r}; the list of trainings shows all that exist")

    def find(self, kind: Kind | None = None, subject: str | None = None) -> list[Job]:
        """Return the jobs of a kind and subject, newest first; None: any."""
        found = []
        for path in self.folder.glob("*/state.json"):
            with suppress(JobError):  # a damaged job must not stop the others
                found.append(self.get(path.parent.name))
        wanted = [
            job for job in found if kind in (None, job.kind) and subject in (None, job.subject)
        ]
        return sorted(wanted, key=lambda job: (job.created, job.job_id), reverse=True)

    def remove_settled(self, kind: Kind) -> None:
        """Delete the settled jobs of a kind."""
        for job in self.find(kind):
            if job.settled:
                shutil.rmtree(self.folder / job.job_id, ignore_errors=True)

    def progress(self, job_id: str) -> list[dict[str, Any]]:
        """Return the lines that a job has reported, oldest first, without an unfinished one."""
        path = self.folder / self.get(job_id).job_id / "progress.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as stream:
            return json_lines(stream.read(_MOST_PROGRESS_BYTES).rpartition(b"\n")[0])

    def result(self, job_id: str) -> dict[str, Any] | None:
        """Return the result of a job; None before its end."""
        return read_json(self.folder / self.get(job_id).job_id / "result.json")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the queue from starting jobs meanwhile."""
        with self._lock:
            yield

    def run_once(self) -> bool:
        """Settle the jobs that have ended and start those that are next.

        Returns:
            Whether any job waits, runs or is still to be settled.
        """
        with self._lock, self._only_this_process() as is_only:
            if not is_only:
                return False
            for known in reversed(self.find()):
                job = self._check_process(known) if known.state == "running" else known
                if job.state in ("done", "failed") and not job.settled:
                    self._settle_now(job)
            jobs = self.find()
            busy = {MODULES[job.kind] for job in jobs if job.state == "running"}
            for job in reversed(jobs):
                if job.state == "waiting" and MODULES[job.kind] not in busy:
                    busy.add(MODULES[job.kind])
                    self._start(job)
            jobs = self.find()
            running = {job.job_id for job in jobs if job.state == "running"}
            self._children = {
                job_id: child
                for job_id, child in self._children.items()
                if job_id in running or child.poll() is None
            }
            return any(
                job.is_open or not (job.settled or job.job_id in self._unsettled) for job in jobs
            )

    def watch(self) -> None:
        """Call ``run_once`` again and again in a thread, until ``close``."""

        def run() -> None:
            while not self._stop.is_set():
                try:
                    self.run_once()
                except Exception:
                    _log.exception("a pass over the jobs failed; it is tried again")
                self._wake.wait(_POLL_SECONDS)
                self._wake.clear()

        self._watcher = threading.Thread(target=run, name="jobs", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End the thread of ``watch``; running children continue and are found again."""
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
            write_json(folder / "job.json", self._prepare(job))
            with (folder / "log.txt").open("ab") as log:
                child = subprocess.Popen(
                    [*self._command(job.kind), str(folder / "job.json")],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C in the console's terminal ends no training
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
        except (ValueError, OSError) as error:
            self._end(job, f"it could not be started: {error}")
            return
        self._children[job.job_id] = child
        process_started = None
        with suppress(psutil.Error):  # it may have ended already
            process = psutil.Process(child.pid)
            process_started = process.create_time()
            process.nice(_NICE)
        self._save(replace(job, state="running", pid=child.pid, process_started=process_started))

    def _check_process(self, job: Job) -> Job:
        """Return a running job with its present state."""
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
        """Return why a job failed by result, exit code and log; empty if it did not."""
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
        except Exception:  # tried again at each pass; the other jobs go on
            if job.job_id not in self._unsettled:
                _log.exception("the end of %s could not be settled; it is tried again", job.job_id)
            self._unsettled.add(job.job_id)
            return
        self._unsettled.discard(job.job_id)
        self._save(replace(self.get(job.job_id), settled=True))

    def _save(self, job: Job) -> None:
        write_json(self.folder / job.job_id / "state.json", asdict(job))

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="milliseconds")

    @contextmanager
    def _only_this_process(self) -> Iterator[bool]:
        """Yield whether no other web process is working on the queue."""
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


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace")[-4000:].split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
