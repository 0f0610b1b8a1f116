"""Typed records: the lines of ``records.jsonl`` as a report reads them.

A value of the wrong kind becomes ``None`` or nothing, since a report must not fail for a NaN. Knows
no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIT, MISS, FALSE_ALARM, QUIET = "hit", "miss", "false alarm", "quiet"


@dataclass(frozen=True)
class Observation:
    """What one twin saw in one round before anyone trained."""

    twin: str
    signal: bool
    entropy: float | None  # fraction of ln C, 0 to 1
    statistic: float | None  # what the detector compares with its threshold
    threshold: float | None
    is_boundary: bool
    new_class_names: tuple[str, ...] = ()
    knows_nothing: bool = False  # the model knew no class yet

    @property
    def was_judged(self) -> bool:
        """Whether a model existed that could look at the images.

        Without one there is nothing to detect.
        """
        return not self.knows_nothing and (self.entropy is not None or self.statistic is not None)

    @property
    def outcome(self) -> str:
        """``hit``, ``miss``, ``false alarm`` or ``quiet``."""
        if self.is_boundary:
            return HIT if self.signal else MISS
        return FALSE_ALARM if self.signal else QUIET


@dataclass(frozen=True)
class RoundRecord:
    """One exchange between the server and its twins."""

    round: int
    task: int
    seconds: float | None = None
    chosen: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()  # twin, reason
    num_classes: int | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    observations: tuple[Observation, ...] = ()
    accuracy: float | None = None
    images_trained: int | None = None
    megabytes_up: float | None = None
    megabytes_down: float | None = None


@dataclass(frozen=True)
class TaskRecord:
    """What the global model could do when a task ended."""

    task: int
    round: int
    seen_classes: tuple[str, ...]
    accuracy: float | None
    macro_f1: float | None
    per_class_accuracy: Mapping[str, float]
    accuracy_row: tuple[float | None, ...]
    confusion: (
        NDArray[np.int64] | None
    )  # [C, C] or [C, C + 1]: rows true, columns predicted, last any other answer
    forgetting: float | None
    model: Mapping[str, Any]

    @property
    def predicted_names(self) -> tuple[str, ...]:
        """Names of the columns of the confusion matrix."""
        has_other = self.confusion is not None and self.confusion.shape[1] > len(self.seen_classes)
        return (*self.seen_classes, "(other answer)") if has_other else self.seen_classes


def number(value: object) -> float | None:
    """A finite float, or ``None`` for whatever is none (a missing loss, a NaN, a word)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def whole(value: object) -> int | None:
    """A whole number, or ``None``."""
    found = number(value)
    return None if found is None else int(found)


def mapping(value: object) -> Mapping[str, Any]:
    """The mapping itself, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """The list itself, or an empty one."""
    return value if isinstance(value, list | tuple) else ()


def names(value: object) -> tuple[str, ...]:
    """A list of names as strings."""
    return tuple(str(name) for name in sequence(value))


def numbers(value: object) -> dict[str, float]:
    """The entries of a mapping that are finite numbers."""
    return {
        str(key): found
        for key, entry in mapping(value).items()
        if (found := number(entry)) is not None
    }


def _observation(entry: Mapping[str, Any]) -> Observation:
    return Observation(
        twin=str(entry.get("twin", "?")),
        signal=bool(entry.get("signal")),
        entropy=number(entry.get("entropy")),
        statistic=number(entry.get("statistic")),
        threshold=number(entry.get("threshold")),
        is_boundary=bool(entry.get("is_boundary")),
        new_class_names=names(entry.get("new_class_names")),
        knows_nothing=bool(entry.get("knows_nothing", entry.get("entropy") is None)),
    )


def round_record(line: Mapping[str, Any]) -> RoundRecord | None:
    """A line of kind ``round``; ``None`` if it does not even say which round it was."""
    index = whole(line.get("round"))
    if index is None:
        return None
    rejected = (mapping(entry) for entry in sequence(line.get("rejected")))
    return RoundRecord(
        round=index,
        task=whole(line.get("task")) or 0,
        seconds=number(line.get("seconds")),
        chosen=names(line.get("chosen")),
        accepted=names(line.get("accepted")),
        rejected=tuple(
            (str(entry.get("twin", "?")), str(entry.get("reason", "no reason given")))
            for entry in rejected
        ),
        num_classes=whole(line.get("num_classes")),
        losses=numbers(line.get("losses")),
        observations=tuple(
            _observation(mapping(entry)) for entry in sequence(line.get("observations"))
        ),
        accuracy=number(line.get("accuracy")),
        images_trained=whole(line.get("images_trained")),
        megabytes_up=number(line.get("megabytes_up")),
        megabytes_down=number(line.get("megabytes_down")),
    )


def task_record(line: Mapping[str, Any]) -> TaskRecord | None:
    """A line of kind ``task``; ``None`` if it does not even say which task it was."""
    task = whole(line.get("task"))
    if task is None:
        return None
    seen = names(line.get("seen_classes"))
    return TaskRecord(
        task=task,
        round=whole(line.get("round")) or 0,
        seen_classes=seen,
        accuracy=number(line.get("accuracy")),
        macro_f1=number(line.get("macro_f1")),
        per_class_accuracy=numbers(line.get("per_class_accuracy")),
        accuracy_row=tuple(number(value) for value in sequence(line.get("accuracy_row"))),
        confusion=_confusion(line.get("confusion"), len(seen)),
        forgetting=number(line.get("forgetting")),
        model=mapping(line.get("model")),
    )


def _confusion(value: object, num_classes: int) -> NDArray[np.int64] | None:
    try:
        matrix = np.asarray(sequence(value), dtype=np.int64)
    except (ValueError, TypeError, OverflowError):
        return None
    if (
        not num_classes
        or matrix.shape not in {(num_classes, num_classes), (num_classes, num_classes + 1)}
        or matrix.min() < 0
    ):
        return None
    # The column of other answers is worth its place only where there were some.
    return matrix if matrix[:, num_classes:].any() else matrix[:, :num_classes]
