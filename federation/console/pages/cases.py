"""The page with the list of cases."""

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from federation.console.rendering import PageNumber, page_links, render
from federation.console.security.guard import page_router
from federation.console.services import ServicesDep, VisitorDep
from federation.console.views.cases import case_list
from twin.review.workflow import CaseState

router = page_router()


@router.get("/cases")
def cases(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    state: Annotated[CaseState | None, Query()] = None,
    page: PageNumber = 1,
) -> Response:
    """Show the cases that a visitor may see."""
    found = case_list(services, visitor, state, page)
    counts = services.store.counts(visitor.hospital)
    return render(
        request,
        "cases.html",
        page=found,
        links=page_links(found, request),
        counts=[(each, counts[each]) for each in CaseState if counts.get(each)],
        total=sum(counts.values()),
        chosen=state,
    )
