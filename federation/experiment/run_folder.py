"""Run folder: names of its files, and writing that never leaves half a file."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PACKAGES = ("torch", "numpy", "mlflow", "monai", "medmnist", "grad-cam", "pydantic", "safetensors")
_ROOT = Path(__file__).resolve().parents[2]


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
            json.dump(
                value, file, indent=1, allow_nan=False
            )  # piece by piece: the plan of many hospitals is long
            file.write("\n")
        beside.replace(place)
        return place

    def write_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> Path:
        """Write one npz file whole or not at all."""
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{os.getpid()}.{place.name}")
        np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]
        beside.replace(place)
        return place

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one JSON file."""
        value: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return value

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line to the records."""
        with self.records.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record, allow_nan=False) + "\n")

    def read_records(self) -> list[dict[str, Any]]:
        """Read all records."""
        if not self.records.exists():
            return []
        return [json.loads(line) for line in self.records.read_text(encoding="utf-8").splitlines()]

    def keep_records(self, count: int) -> None:
        """Forget the lines after the first ``count``; the repeated round writes them again."""
        if self.records.exists():
            lines = self.records.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
            beside = self.records.with_name(f".{self.records.name}.{os.getpid()}")
            beside.write_text("".join(lines), encoding="utf-8")
            beside.replace(self.records)


def code_version() -> str:
    """Return the commit of the program, ``+changes`` where files differ; else ``unknown``."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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
    done = subprocess.run(
        ("git", *arguments), cwd=_ROOT, capture_output=True, text=True, check=True
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
