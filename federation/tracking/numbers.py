"""A run's records as numbers with names, and its detections as a list. Pure: knows no MLflow."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_MEASURED = ("accuracy", "macro_f1", "proxy_score", "epsilon")
_ROUND_METRICS = (
    *_MEASURED,
    "num_classes",
    "images_trained",
    "megabytes_up",
    "megabytes_down",
    "seconds",
)


class Point(NamedTuple):
    """One number of a run: name, value, step (round or task), time since the run began [s]."""

    name: str
    value: float
    step: int
    seconds: float


def points_of(records: list[dict[str, Any]], start: int = 0) -> Iterator[Point]:
    """Yield the numbers of records from line ``start`` on: of rounds with the round as step, of tasks and models with the task."""
    seconds = 0.0
    for index, record in enumerate(records):
        seconds += _number(record.get("seconds")) or 0.0
        step = record.get("round" if record.get("kind") == "round" else "task")
        if index >= start and isinstance(step, int):
            for name, value in _numbers(record):
                if (number := _number(value)) is not None:
                    yield Point(_metric_name(name), number, step, seconds)


def _numbers(record: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    if record["kind"] == "task":
        yield from (
            (f"task/{name}", record.get(name))
            for name in ("accuracy", "macro_f1", "forgetting", "round")
        )
        yield from (
            (f"class_accuracy/{name}", value)
            for name, value in record.get("per_class_accuracy", {}).items()
        )
        yield from (
            (f"accuracy_on_task/{index}", value)
            for index, value in enumerate(record.get("accuracy_row", ()))
        )
    elif record["kind"] == "model":
        yield from (
            (f"model/{name}", record.get(name)) for name in ("score", "test_accuracy", "round")
        )
    elif record["kind"] == "round":
        yield from ((f"round/{name}", record.get(name)) for name in _ROUND_METRICS)
        yield from (
            (f"round/num_{name}", len(record.get(name, ())))
            for name in ("chosen", "accepted", "rejected", "grew")
        )
        yield from ((f"loss/{name}", value) for name, value in record.get("losses", {}).items())
        seen = record.get("observations", ())
        outcomes = [_outcome(each) for each in seen]
        yield from (
            (f"detection/{name}", outcomes.count(name)) for name in ("hit", "miss", "false_alarm")
        )
        yield from ((f"entropy/{each['twin']}", each.get("entropy")) for each in seen)


def detections_of(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every signal and every miss of a run: round, task, twin, outcome, what was compared, class names that the twin named."""
    kept = ("twin", "entropy", "statistic", "threshold", "new_class_names")
    return [
        {
            "round": record["round"],
            "task": record["task"],
            "outcome": _outcome(seen),
            **{key: seen.get(key) for key in kept},
        }
        for record in records
        if record.get("kind") == "round"
        for seen in record.get("observations", ())
        if seen.get("signal") or seen.get("is_boundary")
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file; a last line that is still being written is left for the next time."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _outcome(seen: Mapping[str, Any]) -> str:
    if seen.get("is_boundary"):
        return "hit" if seen.get("signal") else "miss"
    return "false_alarm" if seen.get("signal") else "quiet"


def _metric_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
