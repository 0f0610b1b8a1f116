"""The first page of each role: what waits for a visitor, and the whole federation at a glance."""

from collections.abc import Mapping
from dataclasses import dataclass

from federation.console.job_queue import Job
from federation.console.registry_view import Version
from federation.console.services import Services, Visitor
from federation.console.twin_view import TwinView, twin_view
from federation.console.views.trainings import TrainingView, training_list
from twin.review.cases import CaseRow
from twin.review.workflow import CaseState, Role

_WAITS_FOR: Mapping[
    Role, tuple[CaseState, ...]
] = {  # states in which a case waits for somebody of a role
    Role.CLINICIAN: (CaseState.DETECTED, CaseState.IN_REVIEW),
    Role.APPROVER: (CaseState.NAMED, CaseState.MERGED, CaseState.EVALUATED),
    Role.OPERATOR: (CaseState.APPROVED, CaseState.EVALUATED),
    Role.AUDITOR: (),
}


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


def home_view(services: Services, visitor: Visitor) -> HomeView:
    """Return what waits for a visitor."""
    todo = [
        row
        for state in _WAITS_FOR[visitor.role]
        for row in services.store.cases(visitor.hospital, state, per_page=10).items
    ]
    counts = services.store.counts(visitor.hospital) if visitor.role is not Role.AUDITOR else {}
    return HomeView(
        counts, tuple(todo), training_list(services, visitor)[:3], services.registry.champion()
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
