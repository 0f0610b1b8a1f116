"""The upload page, on which a clinician adds image files."""

from typing import Annotated

from fastapi import File, Request, UploadFile
from fastapi.responses import Response

from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.security.uploads import store_uploads
from federation.console.services import Services, ServicesDep, VisitorDep

router = page_router()


@router.get("/intake")
def intake(request: Request, services: ServicesDep) -> Response:
    """Show the form."""
    return _show(request, services)


@router.post("/intake")
def take(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    files: Annotated[list[UploadFile], File()],
) -> Response:
    """Store files in the inbox and show the result of each."""
    return _show(request, services, tuple(store_uploads(services, visitor, files)))


def _show(request: Request, services: Services, results: tuple[object, ...] = ()) -> Response:
    settings = services.settings
    return render(
        request,
        "intake.html",
        results=results,
        most_files=settings.max_upload_files,
        most_megabytes=settings.max_upload_megabytes,
        problem="",
    )
