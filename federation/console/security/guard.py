"""The guard of every route: checks session, role and CSRF token before a handler runs.

The roles of each route are in ``roles.ROUTES``. The workflow decides what a person may do with a
case in its state.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.status import HTTP_302_FOUND, HTTP_401_UNAUTHORIZED, HTTP_403_FORBIDDEN

from federation.console.roles import ANYBODY, ROUTES
from federation.console.security.cookies import ANONYMOUS, SESSION, cookie_name
from federation.console.security.csrf import (
    FIELD,
    HEADER,
    csrf_token,
    is_csrf_token,
    is_same_origin,
)
from federation.console.services import Services, Visitor, get_services

_BEARER = "bearer "
_SAFE_METHODS = ("GET", "HEAD")
_LONGEST_FIELD = 64 * 1024  # bytes of one text field of a form
_MOST_FIELDS = 5000  # a case of 2,000 images may come with a box each


class RouteTableError(ValueError):
    """The routes and the table of roles do not fit together."""


class GuardedRoute(APIRoute):
    """A route that is checked against the table of roles first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler behind the guard."""
        handle: Callable[[Request], Awaitable[Response]] = super().get_route_handler()
        pattern = self.path

        async def guarded(request: Request) -> Response:
            await authorize(request, pattern)
            try:
                return await handle(request)
            finally:
                await request.close()  # a form's files

        return guarded


def page_router() -> APIRouter:
    """Return a router for HTML pages, which are left out of the OpenAPI description."""
    return APIRouter(route_class=GuardedRoute, include_in_schema=False)


async def authorize(request: Request, pattern: str) -> None:
    """Check that a request is allowed, and set ``request.state.visitor`` after login.

    Raises:
        HTTPException: If it is not: 401, 403, or 302 to the login page.
    """
    services = get_services(request)
    allowed = ROUTES[request.method, pattern]
    bearer = _bearer_token(request)
    cookie = request.cookies.get(cookie_name(services.settings, SESSION), "")
    token = cookie if bearer is None else bearer
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
            raise HTTPException(
                HTTP_403_FORBIDDEN,
                f"This page is not for the role {visitor.role}. "
                f"It is for: {', '.join(sorted(allowed))}.",
            )
    if request.method not in _SAFE_METHODS and bearer is None:
        await _check_csrf(request, services, token if visitor else None)


def check_route_table(routers: Sequence[APIRouter]) -> None:
    """Check that every route is guarded and in the table, and every row has a route.

    Raises:
        RouteTableError: If not; names the route or row.
    """
    served: set[tuple[str, str]] = set()
    for router in routers:
        for route in router.routes:
            if not isinstance(route, GuardedRoute):
                raise RouteTableError(
                    f"route {getattr(route, 'path', route)!r} has no guard; "
                    "make its router with page_router()"
                )
            served |= {(method, route.path) for method in route.methods or ()}
    for what, keys in (
        ("a route without a row in ROUTES", served - set(ROUTES)),
        ("a row of ROUTES without a route", set(ROUTES) - served),
    ):
        if keys:
            raise RouteTableError(
                f"{what}: {', '.join(' '.join(key) for key in sorted(keys))}; "
                "add it in federation/console/roles.py or remove it"
            )


def wants_html(request: Request) -> bool:
    """Return whether a response is read by a person: not for the API and single images."""
    return not request.url.path.startswith(("/api/", "/images/", "/overlays/"))


def _not_logged_in(request: Request) -> HTTPException:
    if not wants_html(request):
        return HTTPException(
            HTTP_401_UNAUTHORIZED,
            "Nobody is logged in, or the session has ended. Log in first.",
            {"WWW-Authenticate": "Bearer"},
        )
    back = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
    is_home = request.method != "GET" or back == "/"
    login = "/login" if is_home else f"/login?next={quote(back, safe='')}"
    return HTTPException(HTTP_302_FOUND, headers={"location": login})


def _bearer_token(request: Request) -> str | None:
    """Return the token of the Authorization header; None without one, empty if of another kind."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    return header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else ""


async def _check_csrf(request: Request, services: Services, session_token: str | None) -> None:
    if not is_same_origin(request):
        raise HTTPException(
            HTTP_403_FORBIDDEN,
            "This request comes from another site. Open the console itself and try again.",
        )
    if session_token is None and request.url.path.startswith("/api/"):
        return  # the API's login: another site's form can send neither JSON nor a cookie here
    bound_to = session_token or request.cookies.get(cookie_name(services.settings, ANONYMOUS), "")
    field = await _form_token(request, services)
    sent = request.headers.get(HEADER, field)
    if not bound_to or not is_csrf_token(services.secret, bound_to, sent):
        raise HTTPException(
            HTTP_403_FORBIDDEN,
            "The form is out of date: its token does not belong to this session. "
            "Reload the page and send it again.",
        )


async def _form_token(request: Request, services: Services) -> str:
    """Return the token of a form, reading it with our limits; the handler gets the same form."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith(("application/x-www-form-urlencoded", "multipart/form-data")):
        return ""
    form = await request.form(
        max_files=services.settings.max_upload_files,
        max_fields=_MOST_FIELDS,
        max_part_size=_LONGEST_FIELD,
    )
    value = form.get(FIELD)
    return value if isinstance(value, str) else ""
