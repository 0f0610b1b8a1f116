"""Trainings as their pages show them: how far each is, and its candidate beside the champion once the two are compared."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federation.console.job_queue import Job, JobError
from federation.console.registry_view import Version
from federation.console.release_checks import release_actions, version_of
from federation.console.services import Services, Visitor
from federation.console.trainings import cases_of_plan
from twin.review.cases import Case


@dataclass(frozen=True)
class TrainingView:
    """One training.

    Args:
        training_id: Its id.
        job: Where its process stands.
        cases: Its cases, of the visitor's hospital; for operators and auditors of all.
        num_other_cases: Those of other hospitals.
        class_names: What all its cases are named.
        steps: What it has told, oldest first: at, step, done, of, text, and for rounds losses, accuracy, seconds, eta_seconds.
        done: Steps done of the present stage.
        of: Steps of the present stage; 0: not known.
        fraction: Of all rounds, in [0, 1].
        eta_seconds: Until the last round, as it estimates.
        light: green, amber or red, once it is compared; "" before.
        result: What it left; empty before its end.
    """

    training_id: str
    job: Job
    cases: tuple[Case, ...]
    num_other_cases: int
    class_names: tuple[str, ...]
    steps: tuple[Mapping[str, Any], ...]
    done: int
    of: int
    fraction: float
    eta_seconds: float | None
    light: str
    result: Mapping[str, Any]


@dataclass(frozen=True)
class ComparisonView:
    """A candidate beside the champion it came from.

    Args:
        training: The training behind it.
        comparison: As the release room wrote it, without other hospitals' rows.
        overall: green, amber or red.
        lights: One per rule: rule, subject, light, measured, allowed, unit, num_images, text.
        examples: Images of the visitor's hospital about which the two differ: hospital, image_id, truth, before, after, number ...
        actions: Of release and roll_back, what this visitor may do now.
        why_not: Why release or roll-back is not offered, for people; "" where it is.
        needs_reason: Release of a red candidate needs a reason; a roll-back always does.
        pending: A release or roll-back that is under way.
        last: The last release or roll-back that ended.
        version: Registered version of the candidate, once there is one.
        champion: Who serves now.
    """

    training: TrainingView
    comparison: Mapping[str, Any]
    overall: str
    lights: tuple[Mapping[str, Any], ...]
    examples: tuple[Mapping[str, Any], ...]
    actions: tuple[str, ...]
    why_not: str
    needs_reason: bool
    pending: Job | None
    last: Job | None
    version: str | None
    champion: Version | None


def training_list(services: Services, visitor: Visitor) -> tuple[TrainingView, ...]:
    """Return all trainings, newest first."""
    return tuple(_training(services, visitor, job) for job in services.jobs.jobs("training"))


def training_view(services: Services, visitor: Visitor, training_id: str) -> TrainingView:
    """Return one training.

    Raises:
        JobError: If there is none.
    """
    job = services.jobs.job(training_id)
    if job.kind != "training":
        raise JobError(
            f"{training_id!r} is no training; the list of trainings shows those that there are"
        )
    return _training(services, visitor, job)


def comparison_view(services: Services, visitor: Visitor, training_id: str) -> ComparisonView:
    """Return what a training's candidate is like beside the champion.

    Raises:
        JobError: If there is no such training, or it has not got so far.
    """
    training = training_view(services, visitor, training_id)
    comparison = read_comparison(services, training_id)
    verdict = comparison.get("verdict") or {}
    decisions = services.jobs.jobs(subject=training_id)
    decided = [job for job in decisions if job.kind in ("release", "roll_back")]
    actions, why_not = release_actions(services, visitor, training_id)
    shown = {
        **comparison,
        "changed": [],
        "hospitals": [
            each
            for each in comparison.get("hospitals", [])
            if _is_theirs(visitor, each["hospital"])
        ],
    }
    overall = str(verdict.get("overall", training.light))
    return ComparisonView(
        training,
        shown,
        overall,
        tuple(verdict.get("lights", ())),
        tuple(
            each
            for each in comparison.get("changed", ())
            if visitor.sees_images and each["hospital"] == visitor.hospital
        ),
        actions,
        why_not,
        overall == "red",
        next((job for job in decided if job.is_open), None),
        next((job for job in decided if not job.is_open), None),
        version_of(services, training_id),
        services.registry.champion(),
    )


def read_comparison(services: Services, training_id: str) -> dict[str, Any]:
    """Return a training's whole comparison.

    Raises:
        JobError: If it has none.
    """
    path = services.settings.jobs_folder / services.jobs.job(training_id).job_id / "comparison.json"
    try:
        plain: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise JobError(
            f"training {training_id} has no comparison yet; follow it on its own page"
        ) from error
    return plain


def _training(services: Services, visitor: Visitor, job: Job) -> TrainingView:
    cases = services.store.of_training(job.job_id) or cases_of_plan(
        services.store, services.jobs, job.job_id
    )
    theirs = tuple(case for case in cases if _is_theirs(visitor, case.hospital))
    steps = services.jobs.progress(job.job_id)
    result = services.jobs.result(job.job_id) or {}
    rounds = [each for each in steps if each.get("step") == "round"]
    last, last_round = (steps[-1] if steps else {}), (rounds[-1] if rounds else {})
    fraction = _share(last_round) if job.state != "done" else 1.0
    return TrainingView(
        job.job_id,
        job,
        theirs,
        len(cases) - len(theirs),
        tuple(sorted({case.class_name for case in cases if case.class_name})),
        tuple(steps),
        int(last.get("done", 0)),
        int(last.get("of", 0)),
        fraction,
        last_round.get("eta_seconds") if job.state == "running" else None,
        str(result.get("light", "")),
        {
            name: value for name, value in result.items() if name not in ("candidate", "comparison")
        },  # paths of this machine
    )


def _share(step: Mapping[str, Any]) -> float:
    return min(1.0, float(step["done"]) / float(step["of"])) if step.get("of") else 0.0


def _is_theirs(visitor: Visitor, hospital: str) -> bool:
    return visitor.hospital in (None, hospital)
