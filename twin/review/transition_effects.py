"""Side effects of a case's transition on its images and on other cases."""

from typing import Any

from sqlalchemy import Connection

from twin.review import case_images
from twin.review.case_queries import Conflict, StoreError, cases_of_training
from twin.review.cases import Case
from twin.review.workflow import CLOSED, UNNAMED, Action, Actor, CaseState, WorkflowError


def facts_of(
    step: Action,
    actor: Actor,
    class_name: str | None,
    training_id: str | None,
    candidate_version: str | None,
) -> dict[str, Any]:
    """Return which columns of a case a step changes beside its state.

    Raises:
        StoreError: If a training or a candidate comes with a step that has none.
    """
    facts: dict[str, Any] = {}
    if step.target in UNNAMED:
        facts |= {"class_name": None, "named_by": None, "candidate_version": None}
    if step.name == "fail_training":
        facts["training_id"] = None
    if step.needs_class:
        facts |= {"class_name": class_name, "named_by": actor.user}
    for field, value, where in (
        ("training_id", training_id, "start_training"),
        ("candidate_version", candidate_version, "finish_training"),
    ):
        if value is not None and step.name != where:
            raise StoreError(f"{step.name} has a {field}; allowed: only {where}")
        if value is not None:
            facts[field] = value
    return facts


def look_around(connection: Connection, case: Case, step: Action) -> None:
    """Refuse a step because of the case's images or of other cases.

    Raises:
        Conflict: If images of a case that is to be opened again are in another one.
        WorkflowError: If nothing is selected, or a case of the same training was withdrawn.
    """
    if (step.needs_class or step.name == "approve") and not case.num_selected:
        raise WorkflowError(
            f"case {case.case_id} has no selected image to {step.name}; select one, or reject the "
            "case"
        )
    if case.state in CLOSED and step.target not in CLOSED:
        other = case_images.other_open_case(connection, case.case_id)
        if other is not None:
            raise Conflict(
                f"case {case.case_id} cannot be opened again: images of it are in case {other} by "
                "now; decide there"
            )
    if step.name == "release" and case.training_id is not None:
        for other_case in cases_of_training(connection, case.training_id):
            if other_case.state not in {CaseState.EVALUATED, CaseState.RELEASED}:
                raise WorkflowError(
                    f"case {case.case_id} was trained together with case {other_case.case_id}, "
                    f"which is {other_case.state} by now; "
                    "reopen this one or train again"
                )
