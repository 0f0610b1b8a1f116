"""Run a background job: a process that reads ``job.json`` and writes ``result.json`` beside it.

Files appear whole or not at all. A job that ended well is not run again. A second process on the
same job waits for the first. Any error becomes one sentence in the result, because a web page shows
it.
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
from typing import Annotated, Any, TypeVar

from pydantic import StringConstraints, TypeAdapter, ValidationError

JOB_FILE, PROGRESS_FILE, RESULT_FILE = "job.json", "progress.jsonl", "result.json"
_MAX_JOB_BYTES = 256 << 20  # a hundred thousand images of each of several hospitals
Job = TypeVar("Job")
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""Id of a job or a hospital."""


class JobError(ValueError):
    """A job that cannot be run: what, got, allowed, what to do."""


class JobFolder:
    """The files of one job.

    Args:
        path: The folder.
        clock: Returns the time, in UTC.
    """

    def __init__(
        self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.path = path
        self._clock = clock

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file whole or not at all; numbers that are not finite become null."""
        text = json.dumps(_finite_or_none(value), indent=1, allow_nan=False)
        return self.write(name, (text + "\n").encode())

    def write(self, name: str, content: bytes) -> Path:
        """Write a file whole or not at all."""
        return write_atomically(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file; none where the file or its JSON is missing."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def add_progress(
        self, step: str, done: int, of: int, text: str, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Append a line to the progress file, with the time.

        Args:
            step: Name of the stage of the job.
            done: Finished parts of the step.
            of: All parts of the step.
            text: The progress as a sentence.
            facts: Further values of the line.
        """
        now = self._clock().astimezone(UTC).isoformat(timespec="milliseconds")
        line = {"at": now, "step": step, "done": done, "of": of, "text": text, **(facts or {})}
        with (self.path / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite_or_none(line), allow_nan=False) + "\n")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait until no other process works in this folder; the lock of a killed process ends."""
        with (self.path / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def job_path_from_command_line(module: str) -> Path:
    """Return the job file that the command line names; exit with code 2 if it names none."""
    if len(sys.argv) != 2:
        sys.stderr.write(f"usage: python -m {module} JOB/job.json\n")
        sys.exit(2)
    return Path(sys.argv[1])


def run_job(
    path: Path, job_type: type[Job], work: Callable[[Job, JobFolder], dict[str, Any]]
) -> int:
    """Read a job file, do its work and write its result.

    Args:
        path: ``job.json``.
        job_type: A pydantic dataclass that forbids unknown keys.
        work: Does the job and returns the content of ``result.json``.

    Returns:
        The exit code: 0, or 1 where the result holds an error.
    """
    folder = JobFolder(path.absolute().parent)
    try:
        content = read_job(path)
    except JobError as error:
        return _fail(folder, str(error)) if folder.path.is_dir() else _print_error(str(error))
    with folder.lock():
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        done = folder.read_json(RESULT_FILE)
        if isinstance(done, dict) and done.get("ok") is True and done.get("job_digest") == digest:
            return 0
        for name in (RESULT_FILE, PROGRESS_FILE):
            (folder.path / name).unlink(missing_ok=True)
        try:
            result = work(TypeAdapter(job_type).validate_json(content), folder)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, each['loc'])) or 'job'}: {each['msg']}"
                for each in error.errors()
            )
            return _fail(folder, f"{path.name}: {problems}")
        except (ValueError, OSError) as error:
            return _fail(folder, str(error))
        except Exception as error:
            traceback.print_exc()
            text = f"unexpected {type(error).__name__}: {error}"
            return _fail(folder, f"{text}; the traceback is in the log of this job")
        folder.write_json(RESULT_FILE, {"ok": True, "job_digest": digest, **result})
        return 0


def read_job(path: Path) -> bytes:
    """Return the content of a job file.

    Raises:
        JobError: If the file is missing or too large.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_JOB_BYTES:
            raise JobError(
                f"{path} has {size} bytes; allowed: at most {_MAX_JOB_BYTES}; "
                "train with fewer images at a time"
            )
        return path.read_bytes()
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error}; needed: the file of a job") from error


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all, and flush it to the disk; return its path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def _fail(folder: JobFolder, message: str) -> int:
    folder.write_json(RESULT_FILE, {"ok": False, "error": message})
    return _print_error(message)


def _print_error(message: str) -> int:
    sys.stderr.write(message + "\n")
    return 1


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite_or_none(each) for key, each in value.items()}
    return [_finite_or_none(each) for each in value] if isinstance(value, list | tuple) else value
