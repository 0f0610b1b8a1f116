"""Request and response models of the API, and the factory of its routers.

Cases, classes and versions are returned as the dataclasses of the modules that make them. Here are
lists, errors, and models that leave fields out, such as process ids and folders of this machine.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from federation.catalogue.look_alikes import Suggestion
from federation.console.background_job import Kind, State
from federation.console.class_name_actions import Proposal
from federation.console.registry_view import Version
from federation.console.security.guard import GuardedRoute
from federation.console.twin_view import TwinView
from twin.review.cases import Case
from twin.review.workflow import CaseState

T = TypeVar("T")
_LARGEST = 2**31 - 1


class ErrorBody(BaseModel):
    """An error."""

    code: str = Field(description="For programs: not_found, conflict, refused ...")
    message: str = Field(description="For people.")
    fields: list[str] = Field(default=[], description="Fields of the request that are not allowed.")
    suggestions: list[Suggestion] = Field(
        default=[], description="Known classes that may be the same as the proposed one."
    )


class ErrorOut(BaseModel):
    """The body of every error response."""

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
    """Return a guarded router of the API that documents the errors."""
    return APIRouter(prefix="/api/v1", route_class=GuardedRoute, responses=ERRORS, tags=[tag])


def _storable(text: str) -> str:
    """Refuse text that no database can store."""
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise ValueError(
            "text holds NUL or half a surrogate pair; allowed: text that can be written down"
        )
    return text


Text = Annotated[str, Field(max_length=4000), AfterValidator(_storable)]
Word = Annotated[str, Field(max_length=200), AfterValidator(_storable)]
Password = Annotated[str, Field(max_length=1024), AfterValidator(_storable)]
Number = Annotated[int, Path(ge=1, le=_LARGEST)]
AnyNumber = Annotated[int, Field(ge=0, le=_LARGEST)]


class Body(BaseModel):
    """A request body; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class ProposalBody(Body):
    """A request body with details of a class name that may be new to the catalogue.

    ``confirmed`` says that it is another class than those that look alike.
    """

    code_system: Word = ""
    code: Word = ""
    synonyms: Annotated[list[Word], Field(max_length=20, default_factory=list)]
    text: Text = ""
    confirmed: bool = False

    def proposal(self) -> Proposal:
        """Return the details as the catalogue's actions take them."""
        return Proposal(
            self.code_system, self.code, tuple(self.synonyms), self.text, self.confirmed
        )


class Out(BaseModel):
    """A response body, made from an object with the same attributes by ``model_validate``."""

    model_config = ConfigDict(from_attributes=True)


class PageOut(Out, Generic[T]):
    """One page of a long list."""

    items: list[T]
    page: int
    per_page: int
    total: int
    num_pages: int


class JobOut(Out):
    """A training, release or roll-back."""

    job_id: str
    kind: Kind
    subject: str
    user: str
    created: str
    state: State
    reason: str
    started: str | None
    ended: str | None
    error: str


class DoneOut(Out):
    """The result of an action."""

    message: str
    case: Case | None = None
    job: JobOut | None = None


class TrainingOut(Out):
    """A training with its reported progress."""

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


class ComparisonOut(Out):
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


class OperatorOut(Out):
    """The federation at a glance."""

    hospitals: list[TwinView]
    trainings: list[TrainingOut]
    versions: list[Version]
    champion: Version | None
    counts: dict[CaseState, int]
    releases: list[JobOut]
