"""The federation at a glance, for operators and auditors: counts and names, no image."""

from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from federation.console.job_queue import Job
from federation.console.pages.training import named
from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.services import Asked, Asking
from federation.console.twin_view import TwinView
from federation.console.views.overview import operator_view
from twin.review.workflow import CLOSED, Role

router = page_router()
_MOST_TRAININGS = 6
_KINDS = {
    "training": "Training",
    "register": "Registration",
    "release": "Release",
    "roll_back": "Roll-back",
    "fetch": "Fetching the model",
}


@dataclass(frozen=True)
class HospitalRow:
    """One hospital in the table."""

    twin: TwinView
    open_cases: int
    quarantined: int


@dataclass(frozen=True)
class JobRow:
    """One piece of work in the queue."""

    job: Job
    words: str


@router.get("/operator")
def operator(request: Request, services: Asked, visitor: Asking) -> Response:
    """Show the federation."""
    view = operator_view(services, visitor)
    hospitals = [
        HospitalRow(
            twin,
            sum(number for state, number in twin.cases.items() if state not in CLOSED),
            sum(twin.quarantine.values()),
        )
        for twin in view.hospitals
    ]
    queue = [job for job in services.jobs.jobs() if job.is_open]
    return render(
        request,
        "operator.html",
        hospitals=hospitals,
        may_open=visitor.role is Role.OPERATOR,
        trainings=[named(each) for each in view.trainings[:_MOST_TRAININGS]],
        versions=view.versions,
        champion=view.champion,
        counts=[(state, number) for state, number in view.counts.items() if number],
        queue=[JobRow(job, _KINDS.get(job.kind, job.kind)) for job in queue],
        releases=[
            JobRow(job, _KINDS.get(job.kind, job.kind)) for job in view.releases[:_MOST_TRAININGS]
        ],
        largest=max((len(each.class_names) for each in view.versions), default=1),
        now=services.clock(),
    )
