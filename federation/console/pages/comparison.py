"""The page that compares a candidate with the champion, and its forms for release and roll-back."""

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import Response

from federation.console.case_actions import decide_release
from federation.console.errors import ActionRefused, NotForRole
from federation.console.pages.comparison_numbers import summarize_comparison
from federation.console.pages.wording import training_title
from federation.console.rendering import redirect, render
from federation.console.security.guard import page_router
from federation.console.services import Services, ServicesDep, Visitor, VisitorDep
from federation.console.views.trainings import ComparisonView, comparison_view
from twin.review.workflow import Role

router = page_router()
_MOST_EXAMPLES = 24
_UNDER_WAY = {"release": "The release is under way.", "roll_back": "The roll-back is under way."}


@router.get("/comparisons/{training_id}")
def comparison(
    request: Request, services: ServicesDep, visitor: VisitorDep, training_id: str
) -> Response:
    """Show the candidate of a training beside the champion."""
    return _show(request, services, visitor, training_id)


@router.post("/comparisons/{training_id}/{action}")
def decide(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    training_id: str,
    action: str,
    reason: Annotated[str, Form(max_length=4000)] = "",
    confirmed: Annotated[bool, Form()] = False,
) -> Response:
    """Release the candidate, or roll it back."""
    if action == "release" and not confirmed:
        problem = "Say that you have seen the rules and the changed images, then release."
        return _show(request, services, visitor, training_id, 409, problem)
    try:
        done = decide_release(services, visitor, training_id, action, reason)
    except NotForRole:
        raise
    except ActionRefused as error:
        return _show(request, services, visitor, training_id, 409, str(error))
    return redirect(request, f"/comparisons/{training_id}", flash=done.message)


def _show(
    request: Request,
    services: Services,
    visitor: Visitor,
    training_id: str,
    status: int = 200,
    problem: str = "",
) -> Response:
    view = comparison_view(services, visitor, training_id)
    return render(
        request,
        "comparison.html",
        status=status,
        path=f"/comparisons/{training_id}",
        training=view.training.job,
        title=training_title(view.training.class_names),
        comparison=summarize_comparison(view.comparison),
        cases=view.training.cases,
        readable=visitor.role is not Role.AUDITOR,
        examples=view.examples[:_MOST_EXAMPLES],
        actions=view.actions,
        no_decision=_no_decision(view),
        notes=_notes(view),
        pending=view.pending,
        problem=problem,
    )


def _no_decision(view: ComparisonView) -> str:
    """Return why there is no decision to make."""
    if view.last is not None and view.last.kind == "roll_back" and view.last.state == "done":
        return (
            "This candidate was rolled back. "
            "To have its class learned again, name a new case of it."
        )
    return view.why_not or "Nothing is to be decided here now."


def _notes(view: ComparisonView) -> list[str]:
    notes, last = [], view.last
    if view.pending is not None:
        notes.append(_UNDER_WAY.get(view.pending.kind, "The model is being prepared."))
    if last is not None and last.state == "failed":
        what = last.kind.replace("_", "-")
        notes.append(f"The last {what} failed: {last.error} Nothing was changed.")
    elif last is not None and view.pending is None:
        did = "released" if last.kind == "release" else "rolled back"
        reason = f": {last.reason}" if last.reason else "."
        notes.append(f"{last.user} {did} this model{reason}")
    if view.version is not None:
        serves = view.champion is not None and view.champion.version == view.version
        end = ", the one that serves." if serves else "."
        notes.append(f"This candidate is version {view.version}{end}")
    return notes
