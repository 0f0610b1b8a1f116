"""The list of trainings, and the page of one while it runs and after."""

from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from federation.console.job_queue import Job
from federation.console.pages.progress import training_page, training_words
from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.services import Asked, Asking
from federation.console.views.trainings import TrainingView, training_list, training_view
from twin.review.workflow import Role

router = page_router()


@dataclass(frozen=True)
class NamedTraining:
    """A training in a list."""

    job: Job
    words: str


def named(view: TrainingView) -> NamedTraining:
    """Return a training for a list."""
    return NamedTraining(view.job, training_words(view.class_names))


@router.get("/trainings")
def trainings(request: Request, services: Asked, visitor: Asking) -> Response:
    """Show all trainings, newest first."""
    found = [named(view) for view in training_list(services, visitor)]
    return render(request, "trainings.html", trainings=found, now=services.clock())


@router.get("/trainings/{training_id}")
def training(request: Request, services: Asked, visitor: Asking, training_id: str) -> Response:
    """Show one training."""
    view = training_view(services, visitor, training_id)
    page = training_page(view, readable=visitor.role is not Role.AUDITOR)
    return render(request, "training.html", training=page, now=services.clock())
