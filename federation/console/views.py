"""What one page shows, put together from the services: plain frozen values for templates and for the API. Changes nothing.

Somebody of a hospital sees that hospital's cases, images and examples; operators and auditors see counts and names of all, and no image ids
of examples. What is not theirs to see is not in the value, so that no template has to remember it.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federation.catalogue import Entry
from federation.console.jobs import Job, JobError
from federation.console.registry_view import Version
from federation.console.releases import release_actions, version_of
from federation.console.services import Services, Visitor
from federation.console.trainings import cases_of_plan
from federation.console.twin_room import TwinView, twin_view
from twin.review.cases import Case, CaseImage, CaseRow, Decision, Page
from twin.review.workflow import CaseState, Role, allowed_actions

__all__ = ["TwinView", "twin_view"]

PER_PAGE, IMAGES_PER_PAGE = 25, 60
HIDDEN_ACTIONS = frozenset({"finish_training", "fail_training", "release", "roll_back"})  # the system's, or on the page of the comparison


@dataclass(frozen=True)
class CaseView:
    """One case.

    Args:
        case: The case.
        actions: What this visitor may do now.
        decisions: Oldest first.
        counts_by_day: (day, images that came), earliest first.
        training: The training it is part of.
        known_classes: What the model that serves can name.
        catalogue: The federation's class names.
        champion_version: Of the model that serves; none before the first.
    """

    case: Case
    actions: tuple[str, ...]
    decisions: tuple[Decision, ...]
    counts_by_day: tuple[tuple[str, int], ...]
    training: Job | None
    known_classes: tuple[str, ...]
    catalogue: tuple[Entry, ...]
    champion_version: str | None


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


@dataclass(frozen=True)
class OperatorView:
    """The federation at a glance.

    Args:
        hospitals: One per hospital; counts and names, no image.
        trainings: Newest first.
        versions: Newest first, with their aliases.
        champion: Who serves.
        counts: Cases by state, of all hospitals.
        releases: Releases and roll-backs, newest first.
    """

    hospitals: tuple[TwinView, ...]
    trainings: tuple[TrainingView, ...]
    versions: tuple[Version, ...]
    champion: Version | None
    counts: Mapping[CaseState, int]
    releases: tuple[Job, ...]


@dataclass(frozen=True)
class HomeView:
    """What waits for a visitor.

    Args:
        counts: Cases by state, of the visitor's hospital or of all.
        todo: Cases in which this role has a next step, last changed first.
        trainings: The latest few.
        champion: Who serves.
    """

    counts: Mapping[CaseState, int]
    todo: tuple[CaseRow, ...]
    trainings: tuple[TrainingView, ...]
    champion: Version | None


_TODO: Mapping[Role, tuple[CaseState, ...]] = {
    Role.CLINICIAN: (CaseState.DETECTED, CaseState.IN_REVIEW),
    Role.APPROVER: (CaseState.NAMED, CaseState.MERGED, CaseState.EVALUATED),
    Role.OPERATOR: (CaseState.APPROVED, CaseState.EVALUATED),
    Role.AUDITOR: (),
}


def home_view(services: Services, visitor: Visitor) -> HomeView:
    """Return what waits for a visitor."""
    todo = [row for state in _TODO[visitor.role] for row in services.store.cases(visitor.hospital, state, per_page=10).items]
    counts = services.store.counts(visitor.hospital) if visitor.role is not Role.AUDITOR else {}
    return HomeView(counts, tuple(todo), training_list(services, visitor)[:3], services.registry.champion())


def case_list(services: Services, visitor: Visitor, state: CaseState | None = None, page: int = 1) -> Page[CaseRow]:
    """Return a page of the cases that a visitor may see, last changed first."""
    return services.store.cases(visitor.hospital, state, page, PER_PAGE)


def case_view(services: Services, visitor: Visitor, case_id: int) -> CaseView:
    """Return one case.

    Raises:
        CaseNotFound: If there is none, or it is another hospital's.
    """
    case = services.store.case(visitor.hospital, case_id)
    offered = allowed_actions(case.state, visitor.role, visitor.user, case.named_by)
    images = services.store.images(case_id, per_page=max(1, case.num_images), hospital=visitor.hospital)
    champion = services.registry.champion()
    return CaseView(
        case,
        tuple(name for name in offered if name not in HIDDEN_ACTIONS),
        tuple(services.store.decisions(case_id, hospital=visitor.hospital)),
        tuple(sorted(Counter(image.arrived[:10] for image in images.items).items())),
        _job_if_any(services, case.training_id),
        services.registry.champion_classes(),
        tuple(services.catalogue.entries()),
        champion.version if champion else None,
    )


def case_images(services: Services, visitor: Visitor, case_id: int, page: int = 1, order: str = "arrived") -> Page[CaseImage]:
    """Return a page of a case's images.

    Raises:
        CaseNotFound: If there is no such case, or it is another hospital's.
    """
    return services.store.images(case_id, page, IMAGES_PER_PAGE, order, hospital=visitor.hospital)


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
        raise JobError(f"{training_id!r} is no training; the list of trainings shows those that there are")
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
        "hospitals": [each for each in comparison.get("hospitals", []) if _is_theirs(visitor, each["hospital"])],
    }
    overall = str(verdict.get("overall", training.light))
    return ComparisonView(
        training,
        shown,
        overall,
        tuple(verdict.get("lights", ())),
        tuple(each for each in comparison.get("changed", ()) if visitor.sees_images and each["hospital"] == visitor.hospital),
        actions,
        why_not,
        overall == "red",
        next((job for job in decided if job.is_open), None),
        next((job for job in decided if not job.is_open), None),
        version_of(services, training_id),
        services.registry.champion(),
    )


def operator_view(services: Services, visitor: Visitor) -> OperatorView:
    """Return the federation at a glance."""
    return OperatorView(
        tuple(twin_view(services, hospital) for hospital in services.settings.hospitals),
        training_list(services, visitor),
        services.registry.versions(),
        services.registry.champion(),
        services.store.counts(None),
        tuple(job for job in services.jobs.jobs() if job.kind in ("release", "roll_back")),
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
        raise JobError(f"training {training_id} has no comparison yet; follow it on its own page") from error
    return plain


def _training(services: Services, visitor: Visitor, job: Job) -> TrainingView:
    cases = services.store.of_training(job.job_id) or cases_of_plan(services.store, services.jobs, job.job_id)
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
        {name: value for name, value in result.items() if name not in ("candidate", "comparison")},  # paths of this machine
    )


def _share(step: Mapping[str, Any]) -> float:
    return min(1.0, float(step["done"]) / float(step["of"])) if step.get("of") else 0.0


def _is_theirs(visitor: Visitor, hospital: str) -> bool:
    return visitor.hospital in (None, hospital)


def _job_if_any(services: Services, training_id: str | None) -> Job | None:
    try:
        return services.jobs.job(training_id) if training_id else None
    except JobError:
        return None
