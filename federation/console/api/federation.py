"""``/api/v1``: state of the twins, overview of the federation, and the audit log."""

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel

from federation.console.api.models import OperatorOut, PageOut, api_router
from federation.console.errors import NotFound
from federation.console.rendering import PageNumber
from federation.console.services import Services, ServicesDep, VisitorDep
from federation.console.twin_view import TwinView, twin_view
from federation.console.views.overview import operator_view
from twin.review.audit import AuditEntry, AuditFault

router = api_router("federation")


class VerifyOut(BaseModel):
    """Whether the audit log is unchanged."""

    num_faults: int
    faults: list[AuditFault]


@router.get("/twin")
def own_twin(services: ServicesDep, visitor: VisitorDep) -> TwinView:
    """Return the twin of the user's hospital."""
    return _twin(services, visitor.hospital or "")


@router.get("/twins/{hospital}")
def any_twin(services: ServicesDep, hospital: Annotated[str, Path(max_length=80)]) -> TwinView:
    """Return the twin of a hospital: counts and names, no image."""
    return _twin(services, hospital)


@router.get("/operator")
def operator(services: ServicesDep, visitor: VisitorDep) -> OperatorOut:
    """Return hospitals, trainings, versions and releases."""
    return OperatorOut.model_validate(operator_view(services, visitor))


@router.get("/audit")
def audit(services: ServicesDep, page: PageNumber = 1) -> PageOut[AuditEntry]:
    """Return a page of the audit log, newest first."""
    return PageOut[AuditEntry].model_validate(services.audit.entries(page))


@router.get("/audit/verify")
def verify(services: ServicesDep) -> VerifyOut:
    """Check the audit log for rows that were changed, deleted, inserted or moved."""
    faults = services.audit.verify()
    return VerifyOut(num_faults=len(faults), faults=faults[:100])


def _twin(services: Services, hospital: str) -> TwinView:
    if hospital not in services.mirrors:
        raise NotFound("there is no such hospital")
    return twin_view(services, hospital)
