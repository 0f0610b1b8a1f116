"""Shapes of what the API takes and gives, and how an API router is made. Knows no service.

What people see of a case, a class or a version has its shape where it is made (``twin.review.cases``, ``federation.catalogue`` ...); here
are lists, errors, and what must not leave the house whole (process ids, folders of this machine).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from federation.catalogue.look_alikes import Suggestion
from federation.console.job_queue import Job
from federation.console.registry_view import Version
from federation.console.security.guard import GuardedRoute
from federation.console.twin_view import TwinView
from federation.console.views.trainings import ComparisonView, TrainingView
from twin.review.cases import Case, Page
from twin.review.workflow import CaseState

T = TypeVar("T")
_MOST = 2**31 - 1


class ErrorBody(BaseModel):
    """What went wrong, for people and for programs."""

    code: str = Field(description="For programs: not_found, conflict, refused ...")
    message: str = Field(description="For people.")
    fields: list[str] = Field(
        default=[], description="What in the request was not allowed, if that was it."
    )
    suggestions: list[Suggestion] = Field(
        default=[], description="Classes that may be the same as the proposed one, if that was it."
    )


class ErrorOut(BaseModel):
    """Every error of the API."""

    error: ErrorBody


_STATUSES: Mapping[int | str, str] = {
    400: "The request cannot be read.",
    401: "Nobody is logged in, or the session has ended.",
    403: "Not for this role, not for this person, or without the session's token.",
    404: "There is no such thing, or it is another hospital's.",
    409: "Not possible in the present state; the message says why.",
    413: "The request is too large.",
    422: "The request has a shape that is not allowed.",
    503: "What is needed cannot be reached now, such as the process with the model.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut, "description": text} for status, text in _STATUSES.items()
}


def api_router(tag: str) -> APIRouter:
    """Return a guarded router of the API with its errors documented."""
    return APIRouter(prefix="/api/v1", route_class=GuardedRoute, responses=ERRORS, tags=[tag])


def _storable(text: str) -> str:
    """Refuse text that no database can hold."""
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise ValueError(
            "text holds NUL or half a surrogate pair; allowed: text that can be written down"
        )
    return text


Text = Annotated[str, Field(max_length=4000), AfterValidator(_storable)]
Word = Annotated[str, Field(max_length=200), AfterValidator(_storable)]
Password = Annotated[str, Field(max_length=1024), AfterValidator(_storable)]
Number = Annotated[int, Path(ge=1, le=_MOST)]
AnyNumber = Annotated[int, Field(ge=0, le=_MOST)]


class Body(BaseModel):
    """What a request says; a key that nobody knows is an error."""

    model_config = ConfigDict(extra="forbid")


class PageOut(BaseModel, Generic[T]):
    """A part of a long list."""

    items: list[T]
    page: int
    per_page: int
    total: int
    num_pages: int


def page_out(page: Page[T]) -> PageOut[T]:
    """Return a page as the API gives it."""
    return PageOut(
        items=list(page.items),
        page=page.page,
        per_page=page.per_page,
        total=page.total,
        num_pages=page.num_pages,
    )


class JobOut(BaseModel):
    """A training, release or roll-back as people may see it."""

    model_config = ConfigDict(from_attributes=True)

    job_id: str
    kind: Literal["training", "register", "release", "roll_back", "versions"]
    subject: str
    user: str
    created: str
    state: Literal["waiting", "running", "done", "failed"]
    reason: str
    started: str | None
    ended: str | None
    error: str


def job_out(job: Job | None) -> JobOut | None:
    """Return a job as the API gives it."""
    return None if job is None else JobOut.model_validate(job)


class DoneOut(BaseModel):
    """What an action did."""

    message: str
    case: Case | None = None
    job: JobOut | None = None


class TrainingOut(BaseModel):
    """A training and what it has told."""

    training_id: str
    job: JobOut
    cases: list[Case]
    num_other_cases: int
    class_names: list[str]
    steps: list[dict[str, Any]]
    done: int
    of: int
    fraction: float
    eta_seconds: float | None
    light: str
    result: dict[str, Any]


def training_out(view: TrainingView) -> TrainingOut:
    """Return a training as the API gives it."""
    return TrainingOut(
        training_id=view.training_id,
        job=JobOut.model_validate(view.job),
        cases=list(view.cases),
        num_other_cases=view.num_other_cases,
        class_names=list(view.class_names),
        steps=[dict(each) for each in view.steps],
        done=view.done,
        of=view.of,
        fraction=view.fraction,
        eta_seconds=view.eta_seconds,
        light=view.light,
        result=dict(view.result),
    )


class ComparisonOut(BaseModel):
    """A candidate beside the champion."""

    training: TrainingOut
    comparison: dict[str, Any]
    overall: str
    lights: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    actions: list[str]
    why_not: str
    pending: JobOut | None
    last: JobOut | None
    version: str | None
    champion: Version | None


def comparison_out(view: ComparisonView) -> ComparisonOut:
    """Return a comparison as the API gives it."""
    return ComparisonOut(
        training=training_out(view.training),
        comparison=dict(view.comparison),
        overall=view.overall,
        lights=[dict(each) for each in view.lights],
        examples=[dict(each) for each in view.examples],
        actions=list(view.actions),
        why_not=view.why_not,
        pending=job_out(view.pending),
        last=job_out(view.last),
        version=view.version,
        champion=view.champion,
    )


class OperatorOut(BaseModel):
    """The federation at a glance."""

    hospitals: list[TwinView]
    trainings: list[TrainingOut]
    versions: list[Version]
    champion: Version | None
    counts: dict[CaseState, int]
    releases: list[JobOut]
