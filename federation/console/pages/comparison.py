"""Candidate against champion, and the forms that release it or roll it back."""

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import Response

from federation.console.case_actions import decide_release
from federation.console.errors import ActionRefused, NotForRole
from federation.console.pages.comparison_numbers import make_verdict
from federation.console.pages.progress import learned_cases, training_words
from federation.console.rendering import redirect, render
from federation.console.security.guard import page_router
from federation.console.services import Asked, Asking, Services, Visitor
from federation.console.views.trainings import ComparisonView, comparison_view
from twin.review.workflow import Role

router = page_router()
_MOST_EXAMPLES = 24
_UNDER_WAY = {"release": "The release is under way.", "roll_back": "The roll-back is under way."}


@router.get("/comparisons/{training_id}")
def comparison(request: Request, services: Asked, visitor: Asking, training_id: str) -> Response:
    """Show how the candidate of a training does beside the champion."""
    return _show(request, services, visitor, training_id)


@router.post("/comparisons/{training_id}/{action}")
def decide(
    request: Request,
    services: Asked,
    visitor: Asking,
    training_id: str,
    action: str,
    reason: Annotated[str, Form(max_length=4000)] = "",
    confirmed: Annotated[bool, Form()] = False,
) -> Response:
    """Release the candidate, or roll it back."""
    if action == "release" and not confirmed:
        return _show(
            request,
            services,
            visitor,
            training_id,
            409,
            "Say that you have seen the rules and the changed images, then release.",
        )
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
        words=training_words(view.training.class_names),
        comparison=make_verdict(view.comparison),
        cases=learned_cases(view.training.cases, readable=visitor.role is not Role.AUDITOR),
        examples=view.examples[:_MOST_EXAMPLES],
        actions=view.actions,
        standing=_standing(view),
        notes=_notes(view),
        pending=view.pending,
        problem=problem,
        now=services.clock(),
    )


def _standing(view: ComparisonView) -> str:
    """Why nothing is to be decided here."""
    if view.last is not None and view.last.kind == "roll_back" and view.last.state == "done":
        return "This candidate was rolled back. To have its class learned again, name a new case of it."
    return view.why_not or "Nothing is to be decided here now."


def _notes(view: ComparisonView) -> list[str]:
    notes = []
    if view.pending is not None:
        notes.append(_UNDER_WAY.get(view.pending.kind, "The model is being prepared."))
    if view.last is not None and view.last.state == "failed":
        notes.append(
            f"The last {view.last.kind.replace('_', '-')} failed: {view.last.error} Nothing was changed."
        )
    elif view.last is not None and view.pending is None:
        said = "released" if view.last.kind == "release" else "rolled back"
        notes.append(
            f"{view.last.user} {said} this model{f': {view.last.reason}' if view.last.reason else '.'}"
        )
    if view.version is not None:
        serving = view.champion is not None and view.champion.version == view.version
        notes.append(
            f"This candidate is version {view.version}"
            + (", the one that serves." if serving else ".")
        )
    return notes
