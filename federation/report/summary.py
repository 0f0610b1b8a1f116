"""The headline numbers and what was run, in words.

The run's own results come first; where a run has not finished, the same numbers are taken from the tasks that did,
and the page says so. Knows the run folder, no figure and no HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federation.metrics import count_detections
from federation.report import words
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
                {"twin": o.twin, "signal": o.signal, "is_boundary": o.is_boundary, "knows_nothing": o.knows_nothing}
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
    so_far = "" if results else f"so far, {len(run.tasks)} finished task{'s' * (len(run.tasks) != 1)}"
    accuracies = [record.accuracy for record in run.tasks if record.accuracy is not None]
    average = _first(results.get("average_accuracy"), sum(accuracies) / len(accuracies) if accuracies else None)
    forgetting = _first(results.get("forgetting"), last.forgetting if last else None)
    seconds = _first(results.get("seconds"), words.total(record.seconds for record in run.rounds))
    images = _first(results.get("images_trained"), words.total(record.images_trained for record in run.rounds))
    rejected, asked = sum(len(r.rejected) for r in run.rounds), sum(len(r.chosen) for r in run.rounds)
    up, down = (
        (words.total(values) for values in zip(*((r.megabytes_up, r.megabytes_down) for r in run.rounds), strict=True))
        if (run.rounds)
        else (None, None)
    )
    return [
        Headline("Average accuracy", words.percent(average), so_far or "mean over the ends of all tasks"),
        Headline(
            "Last accuracy",
            words.percent(_first(results.get("last_accuracy"), last.accuracy if last else None)),
            so_far or "all classes, at the end",
        ),
        Headline(
            "Macro-F1",
            words.percent(_first(results.get("macro_f1"), last.macro_f1 if last else None)),
            so_far or "all seen classes, at the end",
        ),
        Headline(
            "Forgetting",
            words.points(forgetting),
            (so_far or "less is better") if forgetting is not None else "needs a second task",
        ),
        *_detection_headlines(run),
        Headline(
            "Rejected updates",
            words.count(rejected if run.rounds else None),
            f"of {words.count(asked)} asked for" if asked else "",
        ),
        Headline("Time", words.duration(seconds), f"{len(run.rounds)} round{'s' * (len(run.rounds) != 1)}"),
        Headline("Images trained", words.count(images), "every pass over an image counts"),
        Headline(
            "Traffic",
            words.megabytes(words.total((up, down))),
            f"{words.megabytes(up)} up, {words.megabytes(down)} down",
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
            Headline("Detection hit rate", words.NONE, "no twin looked for new classes"),
            Headline("False alarms", words.NONE),
        ]
    note = f"{words.count(at_once)} of {words.count(arrivals)} arrivals" if arrivals else "nothing new came"
    note += f", {words.count(late)} more late" if late else ""
    return [
        Headline("Detection hit rate", words.percent(number(found.get("hit_rate"))), note),
        Headline("False alarms", words.count(number(found.get("false_alarms"))), f"in {words.count(twin_tasks)} pairs of twin and task"),
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
    scalars = {key: value for key, value in method.items() if key != "name" and isinstance(value, str | int | float)}
    options = ", ".join(f"{key} {_shown(value)}" for key, value in scalars.items())
    name = method_name(run)
    packages = mapping(run.environment.get("packages"))
    environment = run.environment
    hardware = [str(environment[key]) for key in ("accelerator", "gpu", "device", "cpu") if environment.get(key)]
    threads = environment.get("threads")
    hardware += [f"{environment['cores']} cores"] if environment.get("cores") else []
    hardware += [f"{threads} thread{'s' * (threads != 1)}"] if threads else []
    classes = sum(map(len, tasks))
    experiment = ": ".join(str(part) for part in (run.config.get("name"), run.config.get("description")) if part)
    return [
        ("Experiment", experiment or words.NONE),
        ("Method", f"{name} ({options})" if name and options else name or words.NONE),
        ("Data set", dataset_name(run) or words.NONE),
        ("Measured on", run.measured_on),
        (
            "Hospitals",
            f"{len(hospitals)}, {later} of which joined later" if later else words.count(len(hospitals) or None),
        ),
        ("Tasks", f"{len(tasks)} with {classes} classes in all; {len(run.tasks)} finished" if tasks else words.NONE),
        ("Rounds", words.count(len(run.rounds))),
        ("Seed", _shown(run.config.get("seed", run.results.get("seed")))),
        ("Code version", _shown(environment.get("code_version", run.results.get("code_version")))),
        ("Configuration digest", _shown(run.config.get("config_digest", run.results.get("config_digest")))),
        ("Hardware", "; ".join(hardware) or words.NONE),
        ("Platform", _shown(environment.get("platform"))),
        ("Packages", ", ".join(f"{key} {value}" for key, value in packages.items()) or words.NONE),
    ]


def _shown(value: Any) -> str:
    if value is None:
        return words.NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def notices(run: RunFolder) -> list[str]:
    """What the reader must know is missing, in sentences."""
    found = []
    if not run.results:
        found.append("This run has no results: it was interrupted or is still going on. All numbers are what it had reached.")
    if not run.rounds:
        found.append("No round has been recorded.")
    if not run.tasks:
        found.append("No task has finished, so there is no accuracy to show.")
    missing = {f"{name}.json" for name in ("results",) if not run.results}
    return found + [problem for problem in run.problems if not any(problem.startswith(f"{name} is not in") for name in missing)]
