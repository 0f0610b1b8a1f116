"""Images that a clinician brings by hand."""

from typing import Annotated

from fastapi import File, Request, UploadFile
from fastapi.responses import Response

from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.security.uploads import take_uploads
from federation.console.services import Asked, Asking, Services

router = page_router()


@router.get("/intake")
def intake(request: Request, services: Asked) -> Response:
    """Ask for files."""
    return _show(request, services)


@router.post("/intake")
def take(
    request: Request, services: Asked, visitor: Asking, files: Annotated[list[UploadFile], File()]
) -> Response:
    """Take files in, and say of each what became of it."""
    return _show(request, services, tuple(take_uploads(services, visitor, files)))


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
