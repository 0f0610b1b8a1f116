"""The page of the audit log."""

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from federation.console.rendering import PageNumber, page_links, render
from federation.console.security.guard import page_router
from federation.console.services import ServicesDep

router = page_router()


@router.get("/audit")
def audit(
    request: Request,
    services: ServicesDep,
    page: PageNumber = 1,
    hospital: Annotated[str, Query(max_length=60)] = "",
    verify: Annotated[bool, Query()] = False,
) -> Response:
    """Show a page of the log, and check the whole chain if asked."""
    chosen = hospital if hospital in services.settings.hospitals else ""
    entries = services.audit.entries(page, hospital=chosen or None)
    return render(
        request,
        "audit.html",
        page=entries,
        links=page_links(entries, request),
        hospitals=services.settings.hospitals,
        chosen_hospital=chosen,
        faults=services.audit.verify() if verify else None,
    )
