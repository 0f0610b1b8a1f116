"""``/api/v1/trainings`` and ``/comparisons``: follow trainings, compare, release and roll back."""

from typing import Annotated

from fastapi import Path

from federation.console.api.models import (
    Body,
    ComparisonOut,
    DoneOut,
    Text,
    TrainingOut,
    api_router,
)
from federation.console.case_actions import decide_release
from federation.console.services import Services, ServicesDep, Visitor, VisitorDep
from federation.console.views.trainings import comparison_view, training_list, training_view

router = api_router("trainings")
TrainingId = Annotated[str, Path(max_length=80)]


class DecideIn(Body):
    """The reason; required for a roll-back and for a release against a red light."""

    reason: Text = ""


@router.get("/trainings")
def list_trainings(services: ServicesDep, visitor: VisitorDep) -> list[TrainingOut]:
    """List all trainings, newest first."""
    return [TrainingOut.model_validate(each) for each in training_list(services, visitor)]


@router.get("/trainings/{training_id}")
def get_training(
    services: ServicesDep, visitor: VisitorDep, training_id: TrainingId
) -> TrainingOut:
    """Return a training with its progress so far; ask again to follow it."""
    return TrainingOut.model_validate(training_view(services, visitor, training_id))


@router.get("/comparisons/{training_id}")
def get_comparison(
    services: ServicesDep, visitor: VisitorDep, training_id: TrainingId
) -> ComparisonOut:
    """Return the comparison of a training's candidate with the champion."""
    return ComparisonOut.model_validate(comparison_view(services, visitor, training_id))


@router.post("/comparisons/{training_id}/release")
def release(
    services: ServicesDep, visitor: VisitorDep, training_id: TrainingId, body: DecideIn
) -> DoneOut:
    """Release a candidate, so that it serves."""
    return _decide(services, visitor, training_id, "release", body)


@router.post("/comparisons/{training_id}/roll_back")
def roll_back(
    services: ServicesDep, visitor: VisitorDep, training_id: TrainingId, body: DecideIn
) -> DoneOut:
    """Roll a released model back, so that the one before it serves again."""
    return _decide(services, visitor, training_id, "roll_back", body)


def _decide(
    services: Services, visitor: Visitor, training_id: str, action: str, body: DecideIn
) -> DoneOut:
    done = decide_release(services, visitor, training_id, action, body.reason)
    return DoneOut.model_validate(done)
