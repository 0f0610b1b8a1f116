"""View models of trainings: progress, and the comparison of candidate and champion."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federation.console.files import read_json
from federation.console.job_queue import Job, JobError
from federation.console.registry_view import Version
from federation.console.release_checks import DECISIONS, release_actions, version_of
from federation.console.services import Services, Visitor
from federation.console.training_jobs import cases_at_start
from twin.review.cases import Case

_PATHS = ("candidate", "comparison")  # paths on this machine in a result, not for users


@dataclass(frozen=True)
class TrainingView:
    """One training.

    Args:
        training_id: Id of the training.
        job: State of its process.
        cases: Its cases in the visitor's hospital; for operators and auditors in all.
        num_other_cases: Its cases in other hospitals.
        class_names: Class names of all its cases.
        steps: Reported progress, oldest first: at, step, done, of, text, and for rounds losses,
            accuracy, seconds and eta_seconds.
        done: Finished steps of the present stage.
        of: All steps of the present stage; 0 if unknown.
        fraction: Finished share of all rounds, in [0, 1].
        eta_seconds: Estimated time until the last round ends.
        light: green, amber or red after the comparison; empty before.
        result: Result of the process without its paths; empty before its end.
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
    """Comparison of a candidate with the champion that it was trained from.

    Args:
        training: The training of the candidate.
        comparison: Content of ``comparison.json`` without the rows of other hospitals.
        overall: green, amber or red.
        lights: One per rule: rule, subject, light, measured, allowed, unit, num_images, text.
        examples: Images of the visitor's hospital whose predictions differ: hospital, image_id,
            truth, before, after, number ...
        actions: Which of release and roll_back this visitor may do now.
        why_not: Why neither is offered, as a sentence for users; empty if one is.
        pending: The release or roll-back that is under way.
        last: The last release or roll-back that ended.
        version: Registered version of the candidate; None before registration.
        champion: The version that serves now.
    """

    training: TrainingView
    comparison: Mapping[str, Any]
    overall: str
    lights: tuple[Mapping[str, Any], ...]
    examples: tuple[Mapping[str, Any], ...]
    actions: tuple[str, ...]
    why_not: str
    pending: Job | None
    last: Job | None
    version: str | None
    champion: Version | None


def training_list(services: Services, visitor: Visitor) -> tuple[TrainingView, ...]:
    """Return all trainings, newest first."""
    return tuple(_training(services, visitor, job) for job in services.jobs.find("training"))


def training_view(services: Services, visitor: Visitor, training_id: str) -> TrainingView:
    """Return one training.

    Raises:
        JobError: If there is none.
    """
    job = services.jobs.get(training_id)
    if job.kind != "training":
        raise JobError(
            f"{training_id!r} is no training; the list of trainings shows all that exist"
        )
    return _training(services, visitor, job)


def comparison_view(services: Services, visitor: Visitor, training_id: str) -> ComparisonView:
    """Return the comparison of a training's candidate with the champion.

    Raises:
        JobError: If there is no such training, or no comparison yet.
    """
    training = training_view(services, visitor, training_id)
    comparison = read_comparison(services, training_id)
    verdict = comparison.get("verdict") or {}
    decided = [job for job in services.jobs.find(subject=training_id) if job.kind in DECISIONS]
    actions, why_not = release_actions(services, visitor, training_id)
    shown = {
        **comparison,
        "changed": [],
        "hospitals": [
            each for each in comparison.get("hospitals", []) if _may_see(visitor, each["hospital"])
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
        next((job for job in decided if job.is_open), None),
        next((job for job in decided if not job.is_open), None),
        version_of(services, training_id),
        services.registry.champion(),
    )


def read_comparison(services: Services, training_id: str) -> dict[str, Any]:
    """Return the whole comparison of a training.

    Raises:
        JobError: If it has none.
    """
    job = services.jobs.get(training_id)
    plain = read_json(services.settings.jobs_folder / job.job_id / "comparison.json")
    if plain is None:
        raise JobError(f"training {training_id} has no comparison yet; follow it on its own page")
    return plain


def _training(services: Services, visitor: Visitor, job: Job) -> TrainingView:
    cases = services.store.of_training(job.job_id) or cases_at_start(
        services.store, services.jobs, job.job_id
    )
    own_cases = tuple(case for case in cases if _may_see(visitor, case.hospital))
    steps = services.jobs.progress(job.job_id)
    result = services.jobs.result(job.job_id) or {}
    rounds = [each for each in steps if each.get("step") == "round"]
    last, last_round = (steps[-1] if steps else {}), (rounds[-1] if rounds else {})
    return TrainingView(
        job.job_id,
        job,
        own_cases,
        len(cases) - len(own_cases),
        tuple(sorted({case.class_name for case in cases if case.class_name})),
        tuple(steps),
        int(last.get("done", 0)),
        int(last.get("of", 0)),
        1.0 if job.state == "done" else _fraction(last_round),
        last_round.get("eta_seconds") if job.state == "running" else None,
        str(result.get("light", "")),
        {name: value for name, value in result.items() if name not in _PATHS},
    )


def _fraction(step: Mapping[str, Any]) -> float:
    return min(1.0, float(step["done"]) / float(step["of"])) if step.get("of") else 0.0


def _may_see(visitor: Visitor, hospital: str) -> bool:
    return visitor.hospital in (None, hospital)
