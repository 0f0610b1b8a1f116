"""View model of a training: progress, remaining time, curves and events.

All of it comes from the lines that the training's process has reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from federation.console.job_queue import Job
from federation.console.pages.charts import Chart, rounds_chart
from federation.console.pages.wording import length_of_time
from federation.console.views.trainings import TrainingView
from twin.review.cases import Case
from twin.review.workflow import CaseState

_MOST_EVENTS = 30


@dataclass(frozen=True)
class Event:
    """An event and its time."""

    at: str
    text: str


@dataclass(frozen=True)
class TrainingPage:
    """The page of a training.

    Args:
        job: Its job.
        status: Progress in one sentence.
        remaining: Remaining time in words; may be empty.
        share: Finished share, in [0, 1].
        accuracy: Curve of the accuracy over rounds; None before the first round ends.
        loss: Curve of the mean loss over rounds; None before the first round ends.
        cases: Cases that the visitor may know.
        num_other_cases: Number of its cases in other hospitals.
        events: Events, newest first.
        retry: Whether it can be started again from its cases.
    """

    job: Job
    status: str
    remaining: str
    share: float
    accuracy: Chart | None
    loss: Chart | None
    cases: tuple[Case, ...]
    num_other_cases: int
    events: tuple[Event, ...]
    retry: bool


def training_page(view: TrainingView, readable: bool) -> TrainingPage:
    """Return the page of a training.

    Args:
        view: The training, with the cases that the visitor may know.
        readable: Whether the visitor may open these cases.
    """
    job, steps = view.job, view.steps
    all_rounds = [line for line in steps if line.get("step") == "round"]
    planned = max((int(line.get("of", 0)) for line in all_rounds), default=0)
    rounds = [line for line in all_rounds if line.get("accuracy", line.get("losses")) is not None]
    accuracies = [_number(line.get("accuracy")) for line in rounds]
    losses = [_mean(line.get("losses")) for line in rounds]
    last = steps[-1] if steps else {}
    return TrainingPage(
        job=job,
        status=_status(job, last),
        remaining=_remaining(job, last),
        share=1.0 if job.state == "done" else _share(last, planned),
        accuracy=rounds_chart(
            [("accuracy", "line-green", accuracies)], "share named rightly", planned, percent=True
        ),
        loss=rounds_chart([("loss", "line-vermilion", losses)], "loss", planned, percent=False),
        cases=view.cases,
        num_other_cases=view.num_other_cases,
        events=tuple(
            Event(str(line["at"]), str(line.get("text") or line.get("step")))
            for line in reversed(steps)
            if "at" in line
        )[:_MOST_EVENTS],
        retry=bool(view.cases)
        and readable
        and all(case.state is CaseState.APPROVED for case in view.cases),
    )


def _status(job: Job, last: Mapping[str, Any]) -> str:
    if job.state == "waiting":
        return "Waits for the work before it."
    if job.state == "done":
        return "Finished: the candidate was compared with the serving model."
    if not last:
        return "Starting."
    done, of = int(last.get("done", 0)), int(last.get("of", 0))
    step = last.get("step")
    if step == "round" and of:
        return f"Round {done} of {of} is done."
    if step == "compare":
        return "Comparing the candidate with the serving model."
    return str(last.get("text") or "Preparing.")


def _remaining(job: Job, last: Mapping[str, Any]) -> str:
    seconds = _number(last.get("eta_seconds"))
    return (
        f"about {length_of_time(seconds)} left"
        if job.state == "running" and seconds is not None and seconds > 0
        else ""
    )


def _share(last: Mapping[str, Any], planned: int) -> float:
    """Return the finished share: rounds up to 0.95, the comparison after them the rest."""
    if last.get("step") == "compare":
        return 0.95
    if last.get("step") != "round" or not planned:
        return 0.0
    return 0.95 * min(int(last.get("done", 0)) / planned, 1.0)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _mean(value: object) -> float | None:
    """Return the mean loss of a round, given as one number or as one of each twin."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        numbers = [number for number in map(_number, value) if number is not None]
        return sum(numbers) / len(numbers) if numbers else None
    return _number(value)
