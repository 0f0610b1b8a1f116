"""View models of the home page, with a visitor's open tasks, and of the operator's overview."""

from collections.abc import Mapping
from dataclasses import dataclass

from federation.console.job_queue import Job
from federation.console.registry_view import Version
from federation.console.services import Services, Visitor
from federation.console.twin_view import TwinView, twin_view
from federation.console.views.trainings import TrainingView, training_list
from twin.review.cases import CaseRow
from twin.review.workflow import CaseState, Role

# States in which a case waits for an action of a role.
_WAITS_FOR: Mapping[Role, tuple[CaseState, ...]] = {
    Role.CLINICIAN: (CaseState.DETECTED, CaseState.IN_REVIEW),
    Role.APPROVER: (CaseState.NAMED, CaseState.MERGED, CaseState.EVALUATED),
    Role.OPERATOR: (CaseState.APPROVED, CaseState.EVALUATED),
    Role.AUDITOR: (),
}


@dataclass(frozen=True)
class HomeView:
    """The home page of a visitor.

    Args:
        counts: State -> number of cases, of the visitor's hospital or of all.
        todo: Cases that wait for an action of this role, last changed first.
        trainings: The latest trainings.
        champion: The version that serves.
    """

    counts: Mapping[CaseState, int]
    todo: tuple[CaseRow, ...]
    trainings: tuple[TrainingView, ...]
    champion: Version | None


@dataclass(frozen=True)
class OperatorView:
    """Overview of the federation.

    Args:
        hospitals: State of each hospital's twin, without images.
        trainings: All trainings, newest first.
        versions: All versions of the model, newest first.
        champion: The version that serves.
        counts: State -> number of cases, of all hospitals.
        releases: Releases and roll-backs, newest first.
    """

    hospitals: tuple[TwinView, ...]
    trainings: tuple[TrainingView, ...]
    versions: tuple[Version, ...]
    champion: Version | None
    counts: Mapping[CaseState, int]
    releases: tuple[Job, ...]


def home_view(services: Services, visitor: Visitor) -> HomeView:
    """Return the home page of a visitor."""
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
    """Return the overview of the federation."""
    return OperatorView(
        tuple(twin_view(services, hospital) for hospital in services.settings.hospitals),
        training_list(services, visitor),
        services.registry.versions(),
        services.registry.champion(),
        services.store.counts(None),
        tuple(job for job in services.jobs.find() if job.kind in ("release", "roll_back")),
    )
