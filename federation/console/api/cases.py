"""``/api/v1/cases``: list them, look at one, select its images, take a step."""

from typing import Annotated, Literal

from fastapi import Query
from pydantic import Field

from federation.console.api.models import (
    AnyNumber,
    Body,
    DoneOut,
    Number,
    PageOut,
    Text,
    Word,
    api_router,
    job_out,
    page_out,
)
from federation.console.case_actions import CASE_ACTIONS, act_on_case, select_images
from federation.console.class_name_actions import Proposal
from federation.console.rendering import PageNumber
from federation.console.services import Asked, Asking
from federation.console.views.cases import case_images, case_list
from twin.review.cases import Case, CaseImage, CaseRow, Decision
from twin.review.workflow import CaseState

router = api_router("cases")


class SelectIn(Body):
    """Which images count, or do not."""

    image_ids: Annotated[list[Word], Field(max_length=5000)]
    selected: bool


class ActIn(Body):
    """A step with a case.

    ``revision`` is that of the case as it was seen; a case that changed since is not touched (but opened: a group grows while it waits). A
    new class name may come with a code and synonyms; ``confirmed`` says that it is another class than those that look alike.
    """

    action: Literal[
        "open", "name", "merge", "reject", "send_back", "approve", "reopen", "start_training"
    ]
    reason: Text = ""
    class_name: Word = ""
    code_system: Word = ""
    code: Word = ""
    synonyms: Annotated[list[Word], Field(max_length=20, default_factory=list)]
    text: Text = ""
    confirmed: bool = False
    revision: AnyNumber | None = None


assert set(CASE_ACTIONS) == set(ActIn.model_fields["action"].annotation.__args__)  # type: ignore[union-attr]  # a Literal


@router.get("/cases")
def list_cases(
    services: Asked,
    visitor: Asking,
    state: Annotated[CaseState | None, Query()] = None,
    page: PageNumber = 1,
) -> PageOut[CaseRow]:
    """List cases, last changed first; of one's own hospital, or of all for those who belong to none."""
    return page_out(case_list(services, visitor, state, page))


@router.get("/cases/{case_id}")
def get_case(services: Asked, visitor: Asking, case_id: Number) -> Case:
    """Return a case."""
    return services.store.case(visitor.hospital, case_id)


@router.get("/cases/{case_id}/decisions")
def list_decisions(services: Asked, visitor: Asking, case_id: Number) -> list[Decision]:
    """Return all steps that people took with a case, oldest first."""
    return services.store.decisions(case_id, hospital=visitor.hospital)


@router.get("/cases/{case_id}/images")
def list_images(
    services: Asked,
    visitor: Asking,
    case_id: Number,
    page: PageNumber = 1,
    order: Literal["arrived", "entropy", "distance"] = "arrived",
) -> PageOut[CaseImage]:
    """Return a page of a case's images; their pixels are at ``/api/v1/images``."""
    return page_out(case_images(services, visitor, case_id, page, order))


@router.post("/cases/{case_id}/select")
def select(services: Asked, visitor: Asking, case_id: Number, body: SelectIn) -> Case:
    """Say that images of a case count, or do not."""
    return select_images(services, visitor, case_id, body.image_ids, body.selected)


@router.post("/cases/{case_id}/act")
def act(services: Asked, visitor: Asking, case_id: Number, body: ActIn) -> DoneOut:
    """Take a step with a case."""
    done = act_on_case(
        services,
        visitor,
        case_id,
        body.action,
        reason=body.reason,
        class_name=body.class_name,
        proposal=Proposal(
            body.code_system, body.code, tuple(body.synonyms), body.text, body.confirmed
        ),
        revision=body.revision,
    )
    return DoneOut(message=done.message, case=done.case, job=job_out(done.job))
