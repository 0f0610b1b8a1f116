"""A job of the console: a process that reads ``job.json`` and leaves ``result.json`` beside it. Knows no kind of job.

A result is there whole or not at all; a job that ended well is not run again; two processes on one job wait for each other; and whatever
goes wrong becomes one sentence in the result, because the one who reads it is a page.
"""

import fcntl
import hashlib
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

JOB_FILE, PROGRESS_FILE, RESULT_FILE = "job.json", "progress.jsonl", "result.json"
_LARGEST_JOB_BYTES = 256 << 20  # a hundred thousand images of each of several hospitals
Job = TypeVar("Job")


class JobError(ValueError):
    """A job that cannot be run: what, got, allowed, what to do."""


class JobFolder:
    """One job on disk.

    Args:
        path: The folder of its files.
        clock: The time, in UTC.
    """

    def __init__(
        self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.path = path
        self._clock = clock

    def write_json(self, name: str, value: Any) -> Path:
        """Write one JSON file whole or not at all; what is not finite becomes null."""
        return self.write(
            name, (json.dumps(_finite(value), indent=1, allow_nan=False) + "\n").encode()
        )

    def write(self, name: str, content: bytes) -> Path:
        """Write one file whole or not at all."""
        return write_whole(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """Return what a JSON file holds; none where there is no file, or no JSON in it."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def tell(self, line: Mapping[str, Any]) -> None:
        """Add one line to the progress, with the time."""
        text = json.dumps(
            _finite(
                {"at": self._clock().astimezone(UTC).isoformat(timespec="milliseconds"), **line}
            ),
            allow_nan=False,
        )
        with (self.path / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process works in this folder; a killed process lets go by itself."""
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def run_job(path: Path, kind: type[Job], work: Callable[[Job, JobFolder], dict[str, Any]]) -> int:
    """Run a job from its file to its result.

    Args:
        path: ``job.json``.
        kind: What it must be: a pydantic dataclass that forbids unknown keys.
        work: Does it and returns what the result shall say.

    Returns:
        The exit code: 0, or 1 where the result says what went wrong.
    """
    folder = JobFolder(path.absolute().parent)
    try:
        content = read_job(path)
    except JobError as error:
        return _fail(folder, str(error)) if folder.path.is_dir() else _say(str(error))
    with folder.alone():
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        done = folder.read_json(RESULT_FILE)
        if isinstance(done, dict) and done.get("ok") is True and done.get("job_digest") == digest:
            return 0
        for name in (RESULT_FILE, PROGRESS_FILE):
            (folder.path / name).unlink(missing_ok=True)
        try:
            job = TypeAdapter(kind).validate_json(content)
            result = work(job, folder)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, each['loc'])) or 'job'}: {each['msg']}"
                for each in error.errors()
            ]
            return _fail(folder, f"{path.name}: {'; '.join(problems)}")
        except (ValueError, OSError) as error:
            return _fail(folder, str(error))
        except Exception as error:
            traceback.print_exc()
            return _fail(
                folder,
                f"unexpected {type(error).__name__}: {error}; the traceback is in the log of this job",
            )
        folder.write_json(RESULT_FILE, {"ok": True, "job_digest": digest, **result})
        return 0


def read_job(path: Path) -> bytes:
    """Return the content of a job's file.

    Raises:
        JobError: If there is none, or it is larger than any job.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST_JOB_BYTES:
            raise JobError(
                f"{path} has {size} bytes; allowed: at most {_LARGEST_JOB_BYTES}; train with fewer images at a time"
            )
        return path.read_bytes()
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error}; needed: the file of a job") from error


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all, and onto the disk."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return path


def _fail(folder: JobFolder, message: str) -> int:
    folder.write_json(RESULT_FILE, {"ok": False, "error": message})
    return _say(message)


def _say(message: str) -> int:
    sys.stderr.write(message + "\n")
    return 1


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
