"""The home page: open tasks of the visitor, and recent events."""

from fastapi import Request
from fastapi.responses import Response

from federation.console.pages.recent_events import recent_events
from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.services import ServicesDep, VisitorDep
from federation.console.views.overview import home_view
from twin.review.workflow import Role

router = page_router()
_ENTRIES_READ = 40
_LEADS = {
    Role.CLINICIAN: "Look at what the detector found, "
    "take out what does not belong, and give it a name.",
    Role.APPROVER: "Check what clinicians named; "
    "a second person looks at every new class, and at every new model.",
    Role.OPERATOR: "Trainings, releases and the federation’s hospitals. "
    "Images stay where they are.",
    Role.AUDITOR: "Who decided what, and whether the record of it is whole.",
}
_NOTHING = {
    Role.CLINICIAN: "New groups appear here as soon as the detector finds them.",
    Role.APPROVER: "Named cases and finished comparisons appear here.",
    Role.OPERATOR: "Approved cases and finished comparisons appear here.",
}


@router.get("/")
def home(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    """Show the home page."""
    view = home_view(services, visitor)
    entries = services.audit.entries(1, _ENTRIES_READ, hospital=visitor.hospital).items
    is_auditor = visitor.role is Role.AUDITOR
    return render(
        request,
        "home.html",
        greeting=f"Good day, {visitor.user}",
        lead=_LEADS[visitor.role],
        nothing=_NOTHING.get(visitor.role, ""),
        counts=[(state, number) for state, number in view.counts.items() if number],
        waits=None if is_auditor else view.todo,
        trainings=view.trainings,
        champion=view.champion,
        events=recent_events(entries, opens_cases=not is_auditor),
    )
