"""The list of trainings, and the page of one training."""

from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from federation.console.job_queue import Job
from federation.console.pages.progress import training_page, training_title
from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.services import ServicesDep, VisitorDep
from federation.console.views.trainings import TrainingView, training_list, training_view
from twin.review.workflow import Role

router = page_router()


@dataclass(frozen=True)
class TrainingRow:
    """A training in a list."""

    job: Job
    title: str


def training_row(view: TrainingView) -> TrainingRow:
    """Return a training for a list."""
    return TrainingRow(view.job, training_title(view.class_names))


@router.get("/trainings")
def trainings(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    """Show all trainings, newest first."""
    found = [training_row(view) for view in training_list(services, visitor)]
    return render(request, "trainings.html", trainings=found, now=services.clock())


@router.get("/trainings/{training_id}")
def training(
    request: Request, services: ServicesDep, visitor: VisitorDep, training_id: str
) -> Response:
    """Show one training."""
    view = training_view(services, visitor, training_id)
    page = training_page(view, readable=visitor.role is not Role.AUDITOR)
    return render(request, "training.html", training=page, now=services.clock())
