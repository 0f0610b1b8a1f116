"""The list of trainings, and the page of one training."""

from fastapi import Request
from fastapi.responses import Response

from federation.console.pages.progress import training_page
from federation.console.pages.wording import training_title
from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.services import ServicesDep, VisitorDep
from federation.console.views.trainings import training_list, training_view
from twin.review.workflow import Role

router = page_router()


@router.get("/trainings")
def trainings(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    """Show all trainings, newest first."""
    found = training_list(services, visitor)
    return render(request, "trainings.html", trainings=found)


@router.get("/trainings/{training_id}")
def training(
    request: Request, services: ServicesDep, visitor: VisitorDep, training_id: str
) -> Response:
    """Show one training."""
    view = training_view(services, visitor, training_id)
    readable = visitor.role is not Role.AUDITOR
    return render(
        request,
        "training.html",
        training=training_page(view, readable),
        title=training_title(view.class_names),
        readable=readable,
    )
