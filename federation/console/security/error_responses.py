"""Error responses: an HTML page for people, JSON for programs, and one table of error -> status."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from federation.catalogue.class_names import CatalogueError
from federation.console.class_name_actions import NameSuggested
from federation.console.errors import ActionRefused, NotForRole, NotFound
from federation.console.job_queue import JobError
from federation.console.model_answers import ModelUnavailable
from federation.console.rendering import render
from federation.console.security.guard import wants_html
from physical.mirror import MirrorError
from twin.review.accounts import AccountError
from twin.review.store import CaseNotFound, Conflict, StoreError
from twin.review.workflow import NotAllowed, WorkflowError

# The first class that an error is an instance of decides, so subclasses come first.
STATUS_OF: Final[dict[type[Exception], int]] = {
    CaseNotFound: 404,
    MirrorError: 404,
    JobError: 404,
    NotFound: 404,
    Conflict: 409,
    NotAllowed: 403,
    NotForRole: 403,
    WorkflowError: 409,
    StoreError: 409,
    NameSuggested: 409,
    ActionRefused: 409,
    CatalogueError: 409,
    AccountError: 409,
    ModelUnavailable: 503,
}
_CODES: Final = {
    400: "bad_request",
    401: "not_logged_in",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    422: "not_allowed",
    429: "wait",
    503: "unavailable",
}
_ADVICE: Final = {
    403: "If you need it for your work, ask an operator.",
    404: "Go back to the list and choose one that is there.",
    409: "Reload the page: it shows what is possible now.",
    429: "Wait as long as it says.",
    503: "Everything else works; try again in a minute.",
}


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers of all errors that a request may raise."""
    for kind in STATUS_OF:
        app.add_exception_handler(kind, _known_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def error_response(
    request: Request, status: int, message: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """Return an error as a page or as JSON.

    Args:
        request: The request that it answers.
        status: HTTP status.
        message: A sentence for users.
        headers: Further headers.
        more: Further fields of the JSON form.
    """
    if not wants_html(request):
        code = _CODES.get(status, "error")
        return JSONResponse(
            {"error": {"code": code, "message": message, "fields": [], "suggestions": [], **more}},
            status,
            headers,
        )
    return render(
        request,
        "error.html",
        status,
        headers,
        title=HTTPStatus(status).phrase,
        message=message,
        what_to_do=_ADVICE.get(status, ""),
    )


async def _known_error(request: Request, error: Exception) -> Response:
    status = next(status for kind, status in STATUS_OF.items() if isinstance(error, kind))
    if isinstance(error, NameSuggested):
        suggestions = jsonable_encoder(error.suggestions)
        return error_response(request, status, str(error), suggestions=suggestions)
    return error_response(request, status, str(error))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [(".".join(map(str, each["loc"])), str(each["msg"])) for each in error.errors()]
    if wants_html(request) and any(place.startswith("path.") for place, _ in problems):
        return error_response(request, 404, "There is no such page.")
    listed = "; ".join(f"{place}: {message}" for place, message in problems[:5])
    fields = [place for place, _ in problems[:20]]
    return error_response(request, 422, f"The request is not allowed: {listed}", fields=fields)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.FOUND:  # the guard sends a visitor to the login page
        return RedirectResponse(headers["location"], error.status_code)
    message = (
        "There is no such page." if error.status_code == HTTPStatus.NOT_FOUND else error.detail
    )
    return error_response(request, error.status_code, message, headers)
