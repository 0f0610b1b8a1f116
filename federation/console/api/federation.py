"""``/api/v1``: twins, the federation at a glance, and the audit log."""

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel

from federation.console.api.models import (
    JobOut,
    OperatorOut,
    PageOut,
    api_router,
    page_out,
    training_out,
)
from federation.console.errors import NotHere
from federation.console.rendering import PageNumber
from federation.console.services import Asked, Asking, Services
from federation.console.twin_view import TwinView, twin_view
from federation.console.views.overview import operator_view
from twin.review.audit import AuditEntry, AuditFault

router = api_router("federation")


class VerifyOut(BaseModel):
    """Whether the audit log is as it was written."""

    num_faults: int
    faults: list[AuditFault]


@router.get("/twin")
def own_twin(services: Asked, visitor: Asking) -> TwinView:
    """Return the twin of one's own hospital."""
    return _twin(services, visitor.hospital or "")


@router.get("/twins/{hospital}")
def any_twin(services: Asked, hospital: Annotated[str, Path(max_length=80)]) -> TwinView:
    """Return a hospital's twin: counts and names, no image."""
    return _twin(services, hospital)


@router.get("/operator")
def operator(services: Asked, visitor: Asking) -> OperatorOut:
    """Return hospitals, trainings, versions and releases."""
    view = operator_view(services, visitor)
    return OperatorOut(
        hospitals=list(view.hospitals),
        trainings=[training_out(each) for each in view.trainings],
        versions=list(view.versions),
        champion=view.champion,
        counts=dict(view.counts),
        releases=[JobOut.model_validate(each) for each in view.releases],
    )


@router.get("/audit")
def audit(services: Asked, page: PageNumber = 1) -> PageOut[AuditEntry]:
    """Return a page of the audit log, newest first."""
    return page_out(services.audit.entries(page))


@router.get("/audit/verify")
def verify(services: Asked) -> VerifyOut:
    """Check the whole audit log: any row that was changed, deleted, inserted or moved is a fault."""
    faults = services.audit.verify()
    return VerifyOut(num_faults=len(faults), faults=faults[:100])


def _twin(services: Services, hospital: str) -> TwinView:
    if hospital not in services.mirrors:
        raise NotHere("there is no such hospital")
    return twin_view(services, hospital)
