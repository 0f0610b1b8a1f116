"""``/api/v1/cases``: lists and shows cases, selects their images, acts on them."""

from typing import Annotated, Literal, get_args

from fastapi import Query
from pydantic import Field

from federation.console.api.models import (
    AnyNumber,
    Body,
    DoneOut,
    Number,
    PageOut,
    ProposalBody,
    Text,
    Word,
    api_router,
)
from federation.console.case_actions import CASE_ACTIONS, act_on_case, select_images
from federation.console.rendering import PageNumber
from federation.console.services import ServicesDep, VisitorDep
from federation.console.views.cases import case_images, case_list
from twin.review.cases import Case, CaseImage, CaseRow, Decision
from twin.review.workflow import CaseState

router = api_router("cases")


class SelectIn(Body):
    """Images to include in the training of a case, or to exclude."""

    image_ids: Annotated[list[Word], Field(max_length=5000)]
    selected: bool


class ActIn(ProposalBody):
    """A step with a case, for ``name`` with details of a new class name.

    ``revision`` is that of the case as it was seen: a step other than ``open`` is refused if the
    case has changed since.
    """

    action: Literal[
        "open", "name", "merge", "reject", "send_back", "approve", "reopen", "start_training"
    ]
    reason: Text = ""
    class_name: Word = ""
    revision: AnyNumber | None = None


assert set(CASE_ACTIONS) == set(get_args(ActIn.model_fields["action"].annotation))


@router.get("/cases")
def list_cases(
    services: ServicesDep,
    visitor: VisitorDep,
    state: Annotated[CaseState | None, Query()] = None,
    page: PageNumber = 1,
) -> PageOut[CaseRow]:
    """List the cases of the user's hospital, or for operators of all, last changed first."""
    return PageOut[CaseRow].model_validate(case_list(services, visitor, state, page))


@router.get("/cases/{case_id}")
def get_case(services: ServicesDep, visitor: VisitorDep, case_id: Number) -> Case:
    """Return a case."""
    return services.store.case(visitor.hospital, case_id)


@router.get("/cases/{case_id}/decisions")
def list_decisions(services: ServicesDep, visitor: VisitorDep, case_id: Number) -> list[Decision]:
    """Return all steps that people took with a case, oldest first."""
    return services.store.decisions(case_id, hospital=visitor.hospital)


@router.get("/cases/{case_id}/images")
def list_images(
    services: ServicesDep,
    visitor: VisitorDep,
    case_id: Number,
    page: PageNumber = 1,
    order: Literal["arrived", "entropy", "distance"] = "arrived",
) -> PageOut[CaseImage]:
    """Return a page of a case's images; their pixels are at ``/api/v1/images``."""
    return PageOut[CaseImage].model_validate(case_images(services, visitor, case_id, page, order))


@router.post("/cases/{case_id}/select")
def select(services: ServicesDep, visitor: VisitorDep, case_id: Number, body: SelectIn) -> Case:
    """Include images of a case in its training, or exclude them."""
    return select_images(services, visitor, case_id, body.image_ids, body.selected)


@router.post("/cases/{case_id}/act")
def act(services: ServicesDep, visitor: VisitorDep, case_id: Number, body: ActIn) -> DoneOut:
    """Do one step of the workflow with a case."""
    done = act_on_case(
        services,
        visitor,
        case_id,
        body.action,
        reason=body.reason,
        class_name=body.class_name,
        proposal=body.proposal(),
        revision=body.revision,
    )
    return DoneOut.model_validate(done)
