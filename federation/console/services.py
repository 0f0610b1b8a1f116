"""Services and visitor of a request, as FastAPI dependencies.

The app factory (or a test) makes one ``Services`` and keeps it in ``app.state.services``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Request

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.console.job_queue import JobQueue
from federation.console.model_answers import ModelAnswers
from federation.console.registry_view import RegistryView
from federation.console.settings import ConsoleSettings
from physical.mirror import Mirror
from twin.review.accounts import Account, Accounts
from twin.review.audit import AuditLog
from twin.review.store import ReviewStore
from twin.review.workflow import Actor, Role

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time, aware and in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Visitor:
    """The user who sent a request.

    Args:
        user: Name.
        role: Clinician, approver, operator or auditor.
        hospital: Of a clinician or approver; None for operators and auditors, who see no images.
        csrf_token: Sent back by forms as ``csrf_token`` and by scripts as ``X-CSRF-Token``.
    """

    user: str
    role: Role
    hospital: str | None
    csrf_token: str

    @property
    def actor(self) -> Actor:
        """The same person as the workflow knows them."""
        return Actor(self.user, self.role)

    @property
    def sees_images(self) -> bool:
        """Whether images may be shown: only to members of a hospital."""
        return self.hospital is not None


@dataclass(frozen=True)
class Services:
    """Everything that a request may need.

    Args:
        settings: Of this console.
        store: Cases and decisions.
        accounts: Users and sessions.
        audit: The hash-chained log.
        catalogue: Class names of the federation.
        mirrors: Hospital -> its mirrored images.
        jobs: Queue of trainings, releases and roll-backs.
        registry: Versions of the model, as last reported.
        model_answers: Overlays and predictions; starts its worker process when first asked.
        secret: Key that signs cookies and form tokens; never shown or logged.
        clock: Returns the time.
    """

    settings: ConsoleSettings
    store: ReviewStore
    accounts: Accounts
    audit: AuditLog
    catalogue: ClassCatalogue
    mirrors: Mapping[str, Mirror]
    jobs: JobQueue
    registry: RegistryView
    model_answers: ModelAnswers
    secret: bytes
    clock: Clock = utc_now

    def record(
        self,
        person: Visitor | Account,
        what: str,
        subject: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what a person did into the audit log."""
        self.audit.record(person.user, person.role, person.hospital, what, subject, details)


def get_services(request: Request) -> Services:
    """Return the services of the app."""
    services: Services = request.app.state.services
    return services


def get_visitor(request: Request) -> Visitor:
    """Return the logged-in user; do not call it on a route that is open to anybody."""
    visitor: Visitor = request.state.visitor
    return visitor


def optional_visitor(request: Request) -> Visitor | None:
    """Return the logged-in user, or None."""
    return getattr(request.state, "visitor", None)


ServicesDep = Annotated[Services, Depends(get_services)]
VisitorDep = Annotated[Visitor, Depends(get_visitor)]
