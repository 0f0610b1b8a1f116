"""The overview of the federation for operators and auditors, without images."""

from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from federation.console.job_queue import Job
from federation.console.pages.training import training_row
from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.services import ServicesDep, VisitorDep
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
}


@dataclass(frozen=True)
class HospitalRow:
    """One hospital in the table."""

    twin: TwinView
    open_cases: int
    quarantined: int


@dataclass(frozen=True)
class JobRow:
    """One job in a list."""

    job: Job
    label: str


@router.get("/operator")
def operator(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    """Show the overview."""
    view = operator_view(services, visitor)
    hospitals = [
        HospitalRow(
            twin,
            sum(number for state, number in twin.cases.items() if state not in CLOSED),
            sum(twin.quarantine.values()),
        )
        for twin in view.hospitals
    ]
    return render(
        request,
        "operator.html",
        hospitals=hospitals,
        may_open=visitor.role is Role.OPERATOR,
        trainings=[training_row(each) for each in view.trainings[:_MOST_TRAININGS]],
        versions=view.versions,
        champion=view.champion,
        counts=[(state, number) for state, number in view.counts.items() if number],
        queue=_job_rows(job for job in services.jobs.find() if job.is_open),
        releases=_job_rows(view.releases[:_MOST_TRAININGS]),
        largest=max((len(each.class_names) for each in view.versions), default=1),
        now=services.clock(),
    )


def _job_rows(jobs: Iterable[Job]) -> list[JobRow]:
    return [JobRow(job, _KINDS.get(job.kind, job.kind)) for job in jobs]
