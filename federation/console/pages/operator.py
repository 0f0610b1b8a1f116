"""The overview of the federation for operators and auditors, without images."""

from fastapi import Request
from fastapi.responses import Response

from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.services import ServicesDep, VisitorDep
from federation.console.views.overview import operator_view
from twin.review.workflow import Role

router = page_router()
_MOST_LISTED = 6


@router.get("/operator")
def operator(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    """Show the overview."""
    view = operator_view(services, visitor)
    return render(
        request,
        "operator.html",
        hospitals=view.hospitals,
        may_open=visitor.role is Role.OPERATOR,
        trainings=view.trainings[:_MOST_LISTED],
        versions=view.versions,
        champion=view.champion,
        counts=[(state, number) for state, number in view.counts.items() if number],
        queue=[job for job in services.jobs.find() if job.is_open],
        releases=view.releases[:_MOST_LISTED],
        largest=max((len(each.class_names) for each in view.versions), default=1),
    )
