"""Records of a run as MLflow metrics, and its task-boundary detections as a list."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_ROUND_METRICS = (
    "accuracy",
    "macro_f1",
    "proxy_score",
    "epsilon",
    "num_classes",
    "images_trained",
    "megabytes_up",
    "megabytes_down",
    "seconds",
)


class MetricPoint(NamedTuple):
    """One value of a metric.

    Args:
        name: Name of the metric.
        value: The value.
        step: Round or task.
        seconds: Time since the run began [s].
    """

    name: str
    value: float
    step: int
    seconds: float


def metric_points(records: list[dict[str, Any]], start: int = 0) -> Iterator[MetricPoint]:
    """Yield the metrics of records from index ``start`` on.

    The step of a round's record is the round; the step of a task's or model's record is the task.
    """
    seconds = 0.0
    for index, record in enumerate(records):
        seconds += _number(record.get("seconds")) or 0.0
        step = record.get("round" if record.get("kind") == "round" else "task")
        if index >= start and isinstance(step, int):
            for name, value in _metrics(record):
                if (number := _number(value)) is not None:
                    yield MetricPoint(_metric_name(name), number, step, seconds)


def _metrics(record: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    if record["kind"] == "task":
        for name in ("accuracy", "macro_f1", "forgetting", "round"):
            yield f"task/{name}", record.get(name)
        for name, value in record.get("per_class_accuracy", {}).items():
            yield f"class_accuracy/{name}", value
        for index, value in enumerate(record.get("accuracy_row", ())):
            yield f"accuracy_on_task/{index}", value
    elif record["kind"] == "model":
        for name in ("score", "test_accuracy", "round"):
            yield f"model/{name}", record.get(name)
    elif record["kind"] == "round":
        for name in _ROUND_METRICS:
            yield f"round/{name}", record.get(name)
        for name in ("chosen", "accepted", "rejected", "grew"):
            yield f"round/num_{name}", len(record.get(name, ()))
        for name, value in record.get("losses", {}).items():
            yield f"loss/{name}", value
        observations = record.get("observations", ())
        outcomes = [_outcome(each) for each in observations]
        for name in ("hit", "miss", "false_alarm"):
            yield f"detection/{name}", outcomes.count(name)
        for each in observations:
            yield f"entropy/{each['twin']}", each.get("entropy")


def list_detections(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every hit, false alarm and miss of the twins' detectors.

    An entry holds round, task, twin, outcome, the statistic with its threshold, and the new class
    names that the twin sent.
    """
    kept = ("twin", "entropy", "statistic", "threshold", "new_class_names")
    return [
        {
            "round": record["round"],
            "task": record["task"],
            "outcome": _outcome(each),
            **{key: each.get(key) for key in kept},
        }
        for record in records
        if record.get("kind") == "round"
        for each in record.get("observations", ())
        if _outcome(each) != "quiet"
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file without a last line that is still being written."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _outcome(observation: Mapping[str, Any]) -> str:
    if observation.get("is_boundary"):
        return "hit" if observation.get("signal") else "miss"
    return "false_alarm" if observation.get("signal") else "quiet"


def _metric_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
