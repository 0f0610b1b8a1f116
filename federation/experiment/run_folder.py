"""Run folder: names of its files, and writing that never leaves half a file."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from federation.engines.twin_states import flush

_PACKAGES = ("torch", "numpy", "mlflow", "monai", "medmnist", "grad-cam", "pydantic", "safetensors")
_HOLDER = "holder.json"  # who holds the lock
_ROOT = Path(__file__).resolve().parents[2]


class RunFolderError(ValueError):
    """A run folder that cannot be used or read: what, got, what to do."""


class RunFolder:
    """One run on disk.

    Args:
        path: The folder; made when first written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoint"
        self.twins = self.checkpoints / "twins"
        self.records = path / "records.jsonl"
        self.results = path / "results.json"
        self.config = path / "config.json"

    def model(self, task: int) -> Path:
        """Return the folder of a task's best model, tasks counted from 0."""
        return self.path / "models" / f"task-{task}"

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write one JSON file whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        place = self.path / name
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        with beside.open("w", encoding="utf-8") as file:
            # Piece by piece: the plan of many hospitals is long.
            json.dump(value, file, indent=1, allow_nan=False)
            file.write("\n")
        beside.replace(place)
        return place

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> Path:
        """Write one npz file whole or not at all."""
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{os.getpid()}.{place.name}")
        np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]  # checked at run time
        beside.replace(place)
        return place

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one JSON file.

        Raises:
            RunFolderError: If it cannot be read, or does not hold keys and values.
        """
        place = self.path / name
        try:
            value = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{place} cannot be read: {error}; expected: JSON as a run writes it; give the "
                "folder "
                "of a run, or run it again in another folder"
            ) from None
        if not isinstance(value, dict):
            raise RunFolderError(
                f"{place} holds {type(value).__name__}; expected: keys and values as a run writes "
                "them"
            )
        return value

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line to the records."""
        with self.records.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record, allow_nan=False) + "\n")

    def flush_records(self) -> None:
        """Make sure that the records are on the disk: a checkpoint may count on them now."""
        if self.records.exists():
            flush(self.records)
            flush(self.path)

    def read_records(self) -> list[dict[str, Any]]:
        """Read all whole lines of the records.

        Raises:
            RunFolderError: If a line is no record.
        """
        records = []
        for number, line in enumerate(self._whole_lines(), 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise RunFolderError(
                    f"{self.records}, line {number}, is no record: {error}; the run cannot be "
                    "trusted; run it again in another folder"
                ) from None
            if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
                raise RunFolderError(
                    f"{self.records}, line {number}, is no record but {line[:40]!r}"
                )
            records.append(record)
        return records

    def num_records(self) -> int:
        """Return how many whole records there are from the beginning on, before any damage."""
        count = 0
        for line in self._whole_lines():
            try:
                json.loads(line)
            except ValueError:
                break
            count += 1
        return count

    def keep_records(self, count: int) -> None:
        """Forget the lines after the first ``count``; the repeated round writes them again."""
        if self.records.exists():
            beside = self.records.with_name(f".{self.records.name}.{os.getpid()}")
            beside.write_text("".join(self._whole_lines()[:count]), encoding="utf-8")
            beside.replace(self.records)

    def _whole_lines(self) -> list[str]:
        if not self.records.exists():
            return []
        text = self.records.read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process, so that no other one writes into it meanwhile.

        Raises:
            RunFolderError: If another process holds it, or the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(blocking=False)
        except Timeout:
            raise RunFolderError(
                f"{self.path} is in use by {self._holder()}; wait until that ends, or choose "
                "another "
                "--out"
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be a run folder: {error.strerror or error}; choose another "
                "--out"
            ) from None
        try:
            holder = {"process": os.getpid(), "host": platform.node()}
            self.write_json(_HOLDER, holder)
            yield
        finally:
            with suppress(OSError):
                (self.path / _HOLDER).unlink(missing_ok=True)
            lock.release()

    def _holder(self) -> str:
        with suppress(RunFolderError, KeyError):
            holder = self.read_json(_HOLDER)
            return f"process {holder['process']} on {holder['host']}"
        return "another process"


def code_version() -> str:
    """Return the commit of this program's checkout, ``+changes`` where files differ from it.

    Outside a checkout of its own it is the digest of the program's files: never the commit of
    whatever repository the environment happens to lie in.
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() == _ROOT:
            return _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        pass
    return code_digest()


def code_digest() -> str:
    """Return the digest of all Python files of the program."""
    digest = hashlib.sha256()
    for name in ("physical", "incremental", "twin", "federation"):
        for path in sorted((_ROOT / name).rglob("*.py")):
            digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return f"files sha256:{digest.hexdigest()}"


def environment(threads: int, accelerator: str | None = None) -> dict[str, Any]:
    """Return what a run was made with.

    Args:
        threads: Of one training.
        accelerator: What networks ran on beside the processor; none: nothing.
    """
    return {
        "code_version": code_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "accelerator": accelerator,
        "command": sys.argv[1:],
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _git(*arguments: str) -> str:
    # GIT_DIR and its like would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ("git", *arguments),
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor()
