"""Reader of run folders, as far as they can be read.

A report is wanted most when a run went wrong, so every part of the folder may be missing or cut
short: what cannot be read becomes a sentence in ``problems``, never an exception. This file knows
the run folder's format and nothing of pages, figures or models.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.report.records import (
    Observation,
    RoundRecord,
    TaskRecord,
    mapping,
    names,
    round_record,
    sequence,
    task_record,
    whole,
)

_MAP_AXES = 3  # [N, h, w]


class ReportError(OSError):
    """The folder to report on is not there."""


@dataclass(frozen=True)
class Examples:
    """Images with the attention that the old model and the new one pay to them."""

    images: NDArray[np.uint8]  # [N, H, W, C]
    teacher: NDArray[np.float64]  # [N, h, w]
    student: NDArray[np.float64]  # [N, h, w]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class RunFolder:
    """Everything of a run folder that a report needs."""

    name: str
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    environment: Mapping[str, Any]
    results: Mapping[str, Any]
    rounds: tuple[RoundRecord, ...]
    tasks: tuple[TaskRecord, ...]
    models: tuple[
        tuple[int, Mapping[str, Any]], ...
    ]  # task, what is known of the model kept at its end
    events: tuple[tuple[int | None, str], ...]
    examples: Examples | None
    problems: tuple[str, ...]

    @property
    def observations(self) -> list[tuple[int, Observation]]:
        """All observations with their round, in order."""
        return [
            (record.round, observation)
            for record in self.rounds
            for observation in record.observations
        ]

    @property
    def measured_on(self) -> str:
        """The images that accuracies were measured on."""
        said = mapping(self.config.get("evaluation")).get(
            "split", self.results.get("evaluation_split")
        )
        return f"{said or 'test'} images"

    @property
    def task_spans(self) -> list[tuple[int, int, int]]:
        """(task, first round, last round) of every task that was begun, in order."""
        spans: dict[int, tuple[int, int]] = {}
        for record in self.rounds:
            first, last = spans.get(record.task, (record.round, record.round))
            spans[record.task] = (min(first, record.round), max(last, record.round))
        return [(task, *spans[task]) for task in sorted(spans)]

    @property
    def hospitals(self) -> Mapping[str, Mapping[str, Any]]:
        """The manifest's hospitals by their identifier."""
        return {
            str(name): mapping(entry)
            for name, entry in mapping(self.manifest.get("hospitals")).items()
        }

    @property
    def task_classes(self) -> list[tuple[str, ...]]:
        """Class names that appear in each task of the scenario."""
        return [names(classes) for classes in sequence(self.manifest.get("tasks"))]

    @property
    def twins(self) -> list[str]:
        """All twins: the manifest's in its order, then any that only the records know."""
        seen = dict.fromkeys(self.hospitals)
        for record in self.rounds:
            seen.update(
                dict.fromkeys(
                    (*record.chosen, *(observation.twin for observation in record.observations))
                )
            )
        return list(seen)


def read_run_folder(run_dir: Path) -> RunFolder:
    """Read a run folder, complete or not.

    Args:
        run_dir: The run folder.

    Returns:
        What could be read; ``problems`` names, in sentences, what could not.

    Raises:
        ReportError: If there is no such folder.
    """
    if not run_dir.is_dir():
        raise ReportError(
            f"run folder: got {str(run_dir)!r}, which is not a folder; allowed is the folder of a "
            "run (it holds "
            "config.json and records.jsonl); give the folder that the run printed."
        )
    problems: list[str] = []
    parts = {
        name: _read_json(run_dir / f"{name}.json", problems)
        for name in ("config", "manifest", "environment", "results")
    }
    lines = _read_lines(run_dir / "records.jsonl", problems)
    # A resumed run may write a round twice; what it wrote last is what counted.
    rounds = {
        record.round: record
        for line in lines
        if line.get("kind") == "round"
        if (record := round_record(line))
    }
    tasks = {
        found.task: found
        for line in lines
        if line.get("kind") == "task"
        if (found := task_record(line))
    }
    events = tuple(
        (whole(line.get("round")), str(line.get("what", "")))
        for line in lines
        if line.get("kind") == "event"
    )
    return RunFolder(
        name=run_dir.resolve().name,
        **parts,
        rounds=tuple(rounds[key] for key in sorted(rounds)),
        tasks=tuple(tasks[key] for key in sorted(tasks)),
        models=_models(lines, tasks),
        events=events,
        examples=_read_examples(run_dir / "examples" / "attention.npz", problems),
        problems=tuple(problems),
    )


def _models(
    lines: Sequence[Mapping[str, Any]], tasks: Mapping[int, TaskRecord]
) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    found = {task: record.model for task, record in tasks.items() if record.model}
    found |= {
        task: line
        for line in lines
        if line.get("kind") == "model" and (task := whole(line.get("task"))) is not None
    }
    return tuple(sorted(found.items(), key=lambda entry: entry[0]))


def _read_json(path: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        return mapping(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        problems.append(f"{path.name} is not in the run folder.")
    except (ValueError, OSError):
        problems.append(f"{path.name} could not be read.")
    return {}


def _read_lines(path: Path, problems: list[str]) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        problems.append(f"{path.name} is not in the run folder, so nothing is known of the rounds.")
        return []
    found: list[Mapping[str, Any]] = []
    broken = 0
    for line in filter(str.strip, text.split("\n")):
        try:
            found.append(mapping(json.loads(line)))
        except ValueError:
            broken += 1
    if broken:
        lines = "1 line" if broken == 1 else f"{broken} lines"
        problems.append(
            f"{lines} of {path.name} could not be read (a run cut off while writing leaves one)."
        )
    return found


def _read_examples(path: Path, problems: list[str]) -> Examples | None:
    if not path.is_file():
        return None
    try:
        # Opened here, since numpy leaves a file that is no archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            images = np.asarray(archive["images"], dtype=np.uint8)
            teacher, student = (
                np.asarray(archive[key], dtype=np.float64) for key in ("teacher", "student")
            )
            labels = tuple(str(name) for name in archive["class_names"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        problems.append("examples/attention.npz could not be read.")
        return None
    if images.ndim == teacher.ndim:  # grey images saved without their channel
        images = images[..., np.newaxis]
    shapes_fit = (
        teacher.ndim == student.ndim == _MAP_AXES
        and images.ndim == _MAP_AXES + 1
        and images.shape[-1] in (1, 3)
    )
    if (
        not shapes_fit
        or len({len(images), len(teacher), len(student), len(labels)}) != 1
        or not images.size
    ):
        problems.append("examples/attention.npz holds arrays whose shapes do not fit together.")
        return None
    return Examples(images, teacher, student, labels)
