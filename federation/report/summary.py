"""Summary of a report: headline numbers, and what was run.

The run's own results come first; where a run has not finished, the same numbers are taken from the
tasks that did, and the page says so. Knows the run folder, no figure and no HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federation.experiment.metrics import count_detections
from federation.report import number_format
from federation.report.folder import RunFolder
from federation.report.records import mapping, number, whole


@dataclass(frozen=True)
class Headline:
    """One number at the top of the page."""

    name: str
    value: str
    note: str = ""


def detections(run: RunFolder) -> Mapping[str, Any]:
    """Count what the detectors did so far, by the same rule as a finished run's results."""
    rounds = [
        {
            "task": record.task,
            "observations": [
                {
                    "twin": o.twin,
                    "signal": o.signal,
                    "is_boundary": o.is_boundary,
                    "knows_nothing": o.knows_nothing,
                }
                for o in record.observations
            ],
        }
        for record in run.rounds
    ]
    return count_detections(rounds).as_plain()


def status(run: RunFolder) -> str:
    """``finished``, ``interrupted`` or ``not finished``."""
    if run.results:
        return "finished"
    last = run.events[-1][1].lower() if run.events else ""
    return "interrupted" if "interrupt" in last else "not finished"


def headlines(run: RunFolder) -> list[Headline]:
    """The numbers a reader looks for first."""
    results, last = run.results, run.tasks[-1] if run.tasks else None
    so_far = (
        "" if results else f"so far, {len(run.tasks)} finished task{'s' * (len(run.tasks) != 1)}"
    )
    accuracies = [record.accuracy for record in run.tasks if record.accuracy is not None]
    average = _first(
        results.get("average_accuracy"), sum(accuracies) / len(accuracies) if accuracies else None
    )
    forgetting = _first(results.get("forgetting"), last.forgetting if last else None)
    seconds = _first(
        results.get("seconds"), number_format.total(record.seconds for record in run.rounds)
    )
    images = _first(
        results.get("images_trained"),
        number_format.total(record.images_trained for record in run.rounds),
    )
    rejected, asked = (
        sum(len(r.rejected) for r in run.rounds),
        sum(len(r.chosen) for r in run.rounds),
    )
    up, down = (
        (
            number_format.total(values)
            for values in zip(
                *((r.megabytes_up, r.megabytes_down) for r in run.rounds), strict=True
            )
        )
        if (run.rounds)
        else (None, None)
    )
    return [
        Headline(
            "Average accuracy",
            number_format.percent(average),
            so_far or "mean over the ends of all tasks",
        ),
        Headline(
            "Last accuracy",
            number_format.percent(
                _first(results.get("last_accuracy"), last.accuracy if last else None)
            ),
            so_far or "all classes, at the end",
        ),
        Headline(
            "Macro-F1",
            number_format.percent(_first(results.get("macro_f1"), last.macro_f1 if last else None)),
            so_far or "all seen classes, at the end",
        ),
        Headline(
            "Forgetting",
            number_format.points(forgetting),
            (so_far or "less is better") if forgetting is not None else "needs a second task",
        ),
        *_detection_headlines(run),
        Headline(
            "Rejected updates",
            number_format.count(rejected if run.rounds else None),
            f"of {number_format.count(asked)} asked for" if asked else "",
        ),
        Headline(
            "Time",
            number_format.duration(seconds),
            f"{len(run.rounds)} round{'s' * (len(run.rounds) != 1)}",
        ),
        Headline("Images trained", number_format.count(images), "every pass over an image counts"),
        Headline(
            "Traffic",
            number_format.megabytes(number_format.total((up, down))),
            f"{number_format.megabytes(up)} up, {number_format.megabytes(down)} down",
        ),
    ]


def _first(*values: object) -> float | None:
    return next((found for value in values if (found := number(value)) is not None), None)


def _detection_headlines(run: RunFolder) -> list[Headline]:
    found = {**detections(run), **mapping(run.results.get("detection"))}
    arrivals, at_once = number(found.get("boundaries")), number(found.get("noticed_at_once"))
    late, twin_tasks = number(found.get("noticed_late")), number(found.get("twin_tasks"))
    if not twin_tasks:
        return [
            Headline("Detection hit rate", number_format.NONE, "no twin looked for new classes"),
            Headline("False alarms", number_format.NONE),
        ]
    note = (
        f"{number_format.count(at_once)} of {number_format.count(arrivals)} arrivals"
        if arrivals
        else "nothing new came"
    )
    note += f", {number_format.count(late)} more late" if late else ""
    return [
        Headline("Detection hit rate", number_format.percent(number(found.get("hit_rate"))), note),
        Headline(
            "False alarms",
            number_format.count(number(found.get("false_alarms"))),
            f"in {number_format.count(twin_tasks)} pairs of twin and task",
        ),
    ]


def method_name(run: RunFolder) -> str | None:
    """The method's name as the configuration or the results have it."""
    method = run.config.get("method", run.results.get("method"))
    name = mapping(method).get("name") if isinstance(method, Mapping) else method
    return None if name is None else str(name)


def dataset_name(run: RunFolder) -> str | None:
    """The data set's name as the configuration has it."""
    dataset = mapping(run.config.get("scenario")).get("dataset", run.results.get("dataset"))
    name = mapping(dataset).get("name") if isinstance(dataset, Mapping) else dataset
    return None if name is None else str(name)


def what_was_run(run: RunFolder) -> list[tuple[str, str]]:
    """Name and value of what identifies the run; what is unknown is a dash, not left out."""
    hospitals, tasks = run.hospitals, run.task_classes
    later = sum(bool(whole(entry.get("joins_at_task"))) for entry in hospitals.values())
    method = mapping(run.config.get("method"))
    scalars = {
        key: value
        for key, value in method.items()
        if key != "name" and isinstance(value, str | int | float)
    }
    options = ", ".join(f"{key} {_shown(value)}" for key, value in scalars.items())
    name = method_name(run)
    packages = mapping(run.environment.get("packages"))
    environment = run.environment
    hardware = [
        str(environment[key])
        for key in ("accelerator", "gpu", "device", "cpu")
        if environment.get(key)
    ]
    threads = environment.get("threads")
    hardware += [f"{environment['cores']} cores"] if environment.get("cores") else []
    hardware += [f"{threads} thread{'s' * (threads != 1)}"] if threads else []
    classes = sum(map(len, tasks))
    experiment = ": ".join(
        str(part) for part in (run.config.get("name"), run.config.get("description")) if part
    )
    return [
        ("Experiment", experiment or number_format.NONE),
        ("Method", f"{name} ({options})" if name and options else name or number_format.NONE),
        ("Data set", dataset_name(run) or number_format.NONE),
        ("Measured on", run.measured_on),
        (
            "Hospitals",
            f"{len(hospitals)}, {later} of which joined later"
            if later
            else number_format.count(len(hospitals) or None),
        ),
        (
            "Tasks",
            f"{len(tasks)} with {classes} classes in all; {len(run.tasks)} finished"
            if tasks
            else number_format.NONE,
        ),
        ("Rounds", number_format.count(len(run.rounds))),
        ("Seed", _shown(run.config.get("seed", run.results.get("seed")))),
        ("Code version", _shown(environment.get("code_version", run.results.get("code_version")))),
        (
            "Configuration digest",
            _shown(run.config.get("config_digest", run.results.get("config_digest"))),
        ),
        ("Hardware", "; ".join(hardware) or number_format.NONE),
        ("Platform", _shown(environment.get("platform"))),
        (
            "Packages",
            ", ".join(f"{key} {value}" for key, value in packages.items()) or number_format.NONE,
        ),
    ]


def _shown(value: Any) -> str:
    if value is None:
        return number_format.NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def notices(run: RunFolder) -> list[str]:
    """What the reader must know is missing, in sentences."""
    found = []
    if not run.results:
        found.append(
            "This run has no results: it was interrupted or is still going on. All numbers are "
            "what it had reached."
        )
    if not run.rounds:
        found.append("No round has been recorded.")
    if not run.tasks:
        found.append("No task has finished, so there is no accuracy to show.")
    missing = {f"{name}.json" for name in ("results",) if not run.results}
    return found + [
        problem
        for problem in run.problems
        if not any(problem.startswith(f"{name} is not in") for name in missing)
    ]
