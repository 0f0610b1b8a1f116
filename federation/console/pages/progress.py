"""A training as a page shows it: how far, how long still, curves, and what happened.

It is read from the lines that the training's process wrote. Pure; knows no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from federation.console.job_queue import Job
from federation.console.pages.charts import Chart, rounds_chart
from federation.console.pages.wording import length
from federation.console.views.trainings import TrainingView
from twin.review.cases import Case
from twin.review.workflow import CaseState

_MOST_EVENTS = 30


@dataclass(frozen=True)
class Event:
    """Something that happened, and when."""

    at: str
    text: str


@dataclass(frozen=True)
class Learned:
    """A case that is trained on; without address where it is another hospital's."""

    case_id: int
    href: str
    class_name: str
    hospital: str
    num_selected: int
    state: CaseState
    named_by: str | None


@dataclass(frozen=True)
class TrainingPage:
    """What the page of a training shows.

    Args:
        job: The work itself.
        words: What it is called.
        status: How far it is, in one sentence.
        remaining: How long it will take still; may be empty.
        share: How much is done, 0 to 1.
        accuracy: Curve over rounds, if any has ended.
        loss: The same.
        cases: What is learned, as far as the reader may know.
        num_other_cases: Those of other hospitals.
        events: What happened, newest first.
        retry: Whether starting it again is possible from its cases.
    """

    job: Job
    words: str
    status: str
    remaining: str
    share: float
    accuracy: Chart | None
    loss: Chart | None
    cases: tuple[Learned, ...]
    num_other_cases: int
    events: tuple[Event, ...]
    retry: bool


def training_page(view: TrainingView, readable: bool) -> TrainingPage:
    """Return the page of a training.

    Args:
        view: The training, with those of its cases that the reader may know.
        readable: Whether the reader may open these.
    """
    job, told = view.job, view.steps
    rounds = [
        line
        for line in told
        if line.get("step") == "round" and line.get("accuracy", line.get("losses")) is not None
    ]
    planned = max(
        (int(line.get("of", 0)) for line in told if line.get("step") == "round"), default=0
    )
    accuracies = [_number(line.get("accuracy")) for line in rounds]
    losses = [_mean(line.get("losses")) for line in rounds]
    last = told[-1] if told else {}
    return TrainingPage(
        job=job,
        words=training_words(view.class_names),
        status=_status(job, last),
        remaining=_remaining(job, last),
        share=1.0 if job.state == "done" else _share(last, planned),
        accuracy=rounds_chart(
            [("accuracy", "line-green", accuracies)], "share named rightly", planned, percent=True
        ),
        loss=rounds_chart([("loss", "line-vermilion", losses)], "loss", planned, percent=False),
        cases=learned_cases(view.cases, readable),
        num_other_cases=view.num_other_cases,
        events=tuple(
            Event(str(line["at"]), str(line.get("text") or line.get("step")))
            for line in reversed(told)
            if "at" in line
        )[:_MOST_EVENTS],
        retry=bool(view.cases)
        and readable
        and all(case.state is CaseState.APPROVED for case in view.cases),
    )


def learned_cases(cases: Sequence[Case], readable: bool) -> tuple[Learned, ...]:
    """Return the cases of a training for a list."""
    return tuple(
        Learned(
            each.case_id,
            f"/cases/{each.case_id}" if readable else "",
            each.class_name or "–",
            each.hospital,
            each.num_selected,
            each.state,
            each.named_by,
        )
        for each in cases
    )


def training_words(class_names: Sequence[str]) -> str:
    """What a training is called: after what it teaches."""
    names = sorted(set(class_names))
    if not names:
        return "Training"
    return (
        f"Training of {names[0]}"
        if len(names) == 1
        else f"Training of {', '.join(names[:-1])} and {names[-1]}"
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
        f"about {length(seconds)} left"
        if job.state == "running" and seconds is not None and seconds > 0
        else ""
    )


def _share(last: Mapping[str, Any], planned: int) -> float:
    """Rounds take nearly all the time; what comes after them is the last twentieth."""
    if last.get("step") == "compare":
        return 0.95
    if last.get("step") != "round" or not planned:
        return 0.0
    return 0.95 * min(int(last.get("done", 0)) / planned, 1.0)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _mean(value: object) -> float | None:
    """The mean of what a round says of its losses: one number, or one of each twin."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        numbers = [number for number in map(_number, value) if number is not None]
        return sum(numbers) / len(numbers) if numbers else None
    return _number(value)
