"""Errors as answers: for people a page, for programs JSON; a sentence, never a trace. One table says which error is which status."""

import logging
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from jinja2 import TemplateNotFound
from starlette.exceptions import HTTPException
from starlette.responses import Response

from federation.catalogue.class_names import CatalogueError
from federation.console.class_name_actions import NameSuggested
from federation.console.errors import ActionRefused, NotForRole, NotHere
from federation.console.job_queue import JobError
from federation.console.model_answers import LooksUnavailable
from federation.console.rendering import render
from federation.console.security.guard import Refused, wants_html
from federation.console.security.sessions import SignInRefused
from physical.mirror import MirrorError
from twin.review.accounts import AccountError
from twin.review.store import CaseNotFound, Conflict, StoreError
from twin.review.workflow import NotAllowed, WorkflowError

_log = logging.getLogger("fedka.console")

STATUS_OF: Final[dict[type[Exception], int]] = {
    CaseNotFound: 404,
    MirrorError: 404,
    JobError: 404,
    NotHere: 404,
    Conflict: 409,
    NotAllowed: 403,
    NotForRole: 403,
    WorkflowError: 409,
    StoreError: 409,
    NameSuggested: 409,
    ActionRefused: 409,
    CatalogueError: 409,
    AccountError: 409,
    LooksUnavailable: 503,
}
_CODES: Final = {
    400: "bad_request",
    401: "not_logged_in",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
}
_CODES_MORE: Final = {413: "too_large", 422: "not_allowed", 429: "wait", 503: "unavailable"}
_ADVICE: Final = {
    403: "If you need it for your work, ask an operator.",
    404: "Go back to the list and choose one that is there.",
    409: "Reload the page: it shows what is possible now.",
    429: "Wait as long as it says.",
    503: "Everything else works; try again in a minute.",
}


def add_answers(app: FastAPI) -> None:
    """Teach an app to answer errors."""
    for kind in STATUS_OF:
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(SignInRefused, _sign_in_refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http)


def answer(
    request: Request, status: int, message: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """Return an error.

    Args:
        request: What it answers.
        status: Of the answer.
        message: For people.
        headers: Further ones.
        more: Further fields of the JSON form.
    """
    if not wants_html(request):
        code = (_CODES | _CODES_MORE).get(status, "error")
        return JSONResponse(
            {"error": {"code": code, "message": message, "fields": [], "suggestions": [], **more}},
            status,
            headers,
        )
    title = HTTPStatus(status).phrase
    try:
        return render(
            request,
            "error.html",
            status,
            headers,
            title=title,
            message=message,
            what_to_do=_ADVICE.get(status, ""),
        )
    except TemplateNotFound:
        return PlainTextResponse(f"{status} {title}\n{message}\n", status, headers)


async def _known(request: Request, error: Exception) -> Response:
    status = next(status for kind, status in STATUS_OF.items() if isinstance(error, kind))
    if isinstance(error, NameSuggested):
        from fastapi.encoders import jsonable_encoder

        return answer(request, status, str(error), suggestions=jsonable_encoder(error.suggestions))
    return answer(request, status, str(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    if error.location is not None:
        return RedirectResponse(error.location, 302)
    return answer(
        request,
        error.status,
        error.message,
        {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None,
    )


async def _sign_in_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, SignInRefused)
    return answer(request, error.status, error.message, error.headers)


async def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [(".".join(map(str, each["loc"])), str(each["msg"])) for each in error.errors()]
    if wants_html(request) and any(place.startswith("path.") for place, _ in problems):
        return answer(request, 404, "There is no such page.")
    told = "; ".join(f"{place}: {message}" for place, message in problems[:5])
    return answer(
        request,
        422,
        f"The request is not allowed: {told}",
        fields=[place for place, _ in problems[:20]],
    )


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = (
        error.detail if error.status_code != HTTPStatus.NOT_FOUND else "There is no such page."
    )
    return answer(request, error.status_code, message, dict(error.headers or {}))
