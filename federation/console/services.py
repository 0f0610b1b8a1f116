"""What the pages and the API work with: one value with every service, and who is asking.

Made once by the app factory (or by a test) and kept in ``app.state.services``. Knows no template and no address.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.console.job_queue import Jobs
from federation.console.model_answers import Looks
from federation.console.registry_view import RegistryView
from federation.console.settings import ConsoleSettings
from physical.mirror import Mirror
from twin.review.accounts import Accounts
from twin.review.audit import AuditLog
from twin.review.store import ReviewStore
from twin.review.workflow import Actor, Role

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time, aware and in UTC; an argument wherever it matters."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Services:
    """Everything a request may need.

    Args:
        settings: Of this console.
        store: Cases and their decisions.
        accounts: Users and sessions.
        audit: The hash-chained log.
        catalogue: The federation's class names.
        mirrors: One per hospital, by its id.
        jobs: Trainings, releases and roll-backs, as child processes.
        registry: Versions of the model and who serves, as of the last refresh.
        looks: Overlays and predictions; starts its worker process at the first question.
        secret: Key of cookies' signatures and CSRF tokens; never shown, never logged.
        clock: The time.
    """

    settings: ConsoleSettings
    store: ReviewStore
    accounts: Accounts
    audit: AuditLog
    catalogue: ClassCatalogue
    mirrors: Mapping[str, Mirror]
    jobs: Jobs
    registry: RegistryView
    looks: Looks
    secret: bytes
    clock: Clock = utc_now

    @property
    def folder(self) -> Path:
        """The console folder."""
        return self.settings.folder


@dataclass(frozen=True)
class Visitor:
    """Who is asking, as the guard of every route found out.

    Args:
        user: Name.
        role: One of four.
        hospital: Of a clinician or approver; none for operators and auditors, who belong to no hospital and see no pixels.
        csrf_token: What a form must send back as ``csrf_token``, or a script as header ``X-CSRF-Token``.
    """

    user: str
    role: Role
    hospital: str | None
    csrf_token: str

    @property
    def actor(self) -> Actor:
        """The same person, as the workflow and the audit log know them."""
        return Actor(self.user, self.role)

    @property
    def sees_images(self) -> bool:
        """Whether pixels may be shown: only inside a hospital."""
        return self.hospital is not None


def current_services(request: Request) -> Services:
    """The services of the app that answers."""
    services: Services = request.app.state.services
    return services


def current_visitor(request: Request) -> Visitor:
    """Who is logged in. The guard has let them in by the table of routes; on a route for anybody this must not be asked."""
    visitor: Visitor = request.state.visitor
    return visitor


def visitor_if_any(request: Request) -> Visitor | None:
    """Who is logged in, or none."""
    return getattr(request.state, "visitor", None)


Asked = Annotated[Services, Depends(current_services)]
Asking = Annotated[Visitor, Depends(current_visitor)]
