"""The guard at every route: who is asking, may they, and do they ask from our own pages? All of it before a byte of the body is used.

Roles stand in ``roles.ROUTES`` and nowhere else. What a person may do to a case in its state is the workflow's business.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from federation.console.roles import ANYBODY, ROUTES
from federation.console.security.cookies import ANONYMOUS, SESSION, cookie_name
from federation.console.security.csrf import FIELD, HEADER, csrf_token, is_csrf_token, is_own_origin
from federation.console.services import Services, Visitor

_BEARER = "bearer "
_UNCHANGING = ("GET", "HEAD")
_LONGEST_FIELD = 64 * 1024  # bytes of one text field of a form
_MOST_FIELDS = 5000  # a case of 2,000 images may come with a box each


class RouteTableError(ValueError):
    """Routes and the table of roles do not fit: what, got, allowed, what to do."""


class Refused(Exception):  # noqa: N818 -- a refusal is an answer, not a fault of ours
    """The guard's no.

    Args:
        status: 401, 403, or 302 to the login page.
        message: For people.
        location: Where to go instead.
    """

    def __init__(self, status: int, message: str, location: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.location = status, message, location


class GuardedRoute(APIRoute):
    """A route that asks the table of roles first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler behind the guard."""
        handle: Callable[[Request], Awaitable[Response]] = super().get_route_handler()
        pattern = self.path

        async def guarded(request: Request) -> Response:
            await admit(request, pattern)
            try:
                return await handle(request)
            finally:
                await request.close()  # a form's files

        return guarded


def page_router() -> APIRouter:
    """Return a router for HTML pages, which stand in no OpenAPI."""
    return APIRouter(route_class=GuardedRoute, include_in_schema=False)


async def admit(request: Request, pattern: str) -> None:
    """Let a request pass, with ``request.state.visitor`` set where somebody is logged in.

    Raises:
        Refused: If it must not.
    """
    services: Services = request.app.state.services
    allowed = ROUTES[request.method, pattern]
    bearer = _bearer(request)
    token = (
        request.cookies.get(cookie_name(services.settings, SESSION), "")
        if bearer is None
        else bearer
    )
    account = await run_in_threadpool(services.accounts.session, token) if token else None
    visitor = None
    if account is not None:
        visitor = Visitor(
            account.user, account.role, account.hospital, csrf_token(services.secret, token)
        )
        request.state.visitor, request.state.session_token = visitor, token
    if allowed is not ANYBODY:
        if visitor is None:
            raise _not_logged_in(request)
        if visitor.role not in allowed:
            raise Refused(
                403,
                f"This page is not for the role {visitor.role}. It is for: {', '.join(sorted(allowed))}.",
            )
    if request.method not in _UNCHANGING and bearer is None:
        await _check_source(request, services, token if visitor else None)


def check_table(routers: Sequence[APIRouter]) -> None:
    """Stop the program unless every route is guarded and stands in the table, and every row of the table is served.

    Raises:
        RouteTableError: Says which route or row is without its partner.
    """
    served: set[tuple[str, str]] = set()
    for router in routers:
        for route in router.routes:
            if not isinstance(route, GuardedRoute):
                raise RouteTableError(
                    f"route {getattr(route, 'path', route)!r} has no guard; make its router with page_router()"
                )
            served |= {(method, route.path) for method in route.methods or ()}
    for what, keys in (
        ("a route without a row in ROUTES", served - set(ROUTES)),
        ("a row of ROUTES without a route", set(ROUTES) - served),
    ):
        if keys:
            raise RouteTableError(
                f"{what}: {', '.join(' '.join(key) for key in sorted(keys))}; add it in federation/console/roles.py or remove it"
            )


def wants_html(request: Request) -> bool:
    """Whether a person reads the answer: everything but the API and single images."""
    return not request.url.path.startswith(("/api/", "/images/", "/overlays/"))


def _not_logged_in(request: Request) -> Refused:
    message = "Nobody is logged in, or the session has ended. Log in first."
    if not wants_html(request):
        return Refused(401, message)
    back = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
    return Refused(
        302,
        message,
        "/login"
        if request.method != "GET" or back == "/"
        else f"/login?next={quote(back, safe='')}",
    )


def _bearer(request: Request) -> str | None:
    """The token of the Authorization header; a header of any other kind is a wrong token, never no token."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    return header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else ""


async def _check_source(request: Request, services: Services, session_token: str | None) -> None:
    if not is_own_origin(request):
        raise Refused(
            403, "This request comes from another site. Open the console itself and try again."
        )
    if session_token is None and request.url.path.startswith("/api/"):
        return  # the API's login: JSON that no form of another site can send, and no cookie that it would bring along
    bound_to = session_token or request.cookies.get(cookie_name(services.settings, ANONYMOUS), "")
    field = await _form_field(request, services)
    sent = request.headers.get(HEADER, field)
    if not bound_to or not is_csrf_token(services.secret, bound_to, sent):
        raise Refused(
            403,
            "The form is out of date: its token does not belong to this session. Reload the page and send it again.",
        )


async def _form_field(request: Request, services: Services) -> str:
    """The token of a form. The form is read here with our limits; the route's function gets what was read."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith(("application/x-www-form-urlencoded", "multipart/form-data")):
        return ""
    form: FormData = await request.form(
        max_files=services.settings.max_upload_files,
        max_fields=_MOST_FIELDS,
        max_part_size=_LONGEST_FIELD,
    )
    value = form.get(FIELD)
    return value if isinstance(value, str) else ""
