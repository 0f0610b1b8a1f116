"""``/api/v1/trainings`` and ``/comparisons``: follow a training, look at its candidate, release it or roll it back."""

from typing import Annotated

from fastapi import Path

from federation.console.api.models import (
    Body,
    ComparisonOut,
    DoneOut,
    Text,
    TrainingOut,
    api_router,
    comparison_out,
    job_out,
    training_out,
)
from federation.console.case_actions import decide_release
from federation.console.services import Asked, Asking, Services, Visitor
from federation.console.views.trainings import comparison_view, training_list, training_view

router = api_router("trainings")
TrainingId = Annotated[str, Path(max_length=80)]


class DecideIn(Body):
    """Why; a roll-back, and a release against a red light, need it."""

    reason: Text = ""


@router.get("/trainings")
def list_trainings(services: Asked, visitor: Asking) -> list[TrainingOut]:
    """List all trainings, newest first."""
    return [training_out(each) for each in training_list(services, visitor)]


@router.get("/trainings/{training_id}")
def get_training(services: Asked, visitor: Asking, training_id: TrainingId) -> TrainingOut:
    """Return a training with all that it has told so far; ask again to follow it."""
    return training_out(training_view(services, visitor, training_id))


@router.get("/comparisons/{training_id}")
def get_comparison(services: Asked, visitor: Asking, training_id: TrainingId) -> ComparisonOut:
    """Return a training's candidate beside the champion that it came from."""
    return comparison_out(comparison_view(services, visitor, training_id))


@router.post("/comparisons/{training_id}/release")
def release(services: Asked, visitor: Asking, training_id: TrainingId, body: DecideIn) -> DoneOut:
    """Release a candidate: it serves from then on."""
    return _decide(services, visitor, training_id, "release", body)


@router.post("/comparisons/{training_id}/roll_back")
def roll_back(services: Asked, visitor: Asking, training_id: TrainingId, body: DecideIn) -> DoneOut:
    """Take a released model back: the one before it serves again."""
    return _decide(services, visitor, training_id, "roll_back", body)


def _decide(
    services: Services, visitor: Visitor, training_id: str, action: str, body: DecideIn
) -> DoneOut:
    done = decide_release(services, visitor, training_id, action, body.reason)
    return DoneOut(message=done.message, job=job_out(done.job))
