"""Login and logout: sessions, their cookies, and waits after wrong passwords.

``twin.review.accounts`` keeps sessions and waits; this file turns them into responses.
"""

import math
import threading
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.status import HTTP_401_UNAUTHORIZED, HTTP_429_TOO_MANY_REQUESTS

from federation.console.rendering import redirect
from federation.console.security.cookies import (
    ANONYMOUS,
    SESSION,
    THEME,
    delete_cookie,
    set_cookie,
)
from federation.console.services import Services, get_services
from twin.review.accounts import Account

THEMES = ("auto", "light", "dark")
_YEAR_SECONDS = 365 * 24 * 3600
# Each hash takes 64 MiB: many logins at once must not fill the memory.
_HASHING = threading.BoundedSemaphore(4)


class LoginRefused(HTTPException):
    """The login failed, with 401, or with 429 and ``Retry-After`` after too many failures.

    Args:
        message: For the user; the same for an unknown user and a wrong password.
        wait_seconds: Time until the next attempt is checked; None: at once.
    """

    def __init__(self, message: str, wait_seconds: int | None = None) -> None:
        if wait_seconds is None:
            super().__init__(HTTP_401_UNAUTHORIZED, message)
        else:
            headers = {"Retry-After": str(wait_seconds)}
            super().__init__(HTTP_429_TOO_MANY_REQUESTS, message, headers)


def open_session(
    request: Request, services: Services, user: str, password: str
) -> tuple[str, Account]:
    """Check a password, open a session, and close the one that the browser had before.

    Returns:
        The token of the session, and the account.

    Raises:
        LoginRefused: If the password is wrong, or was wrong too often.
    """
    address = request.client.host if request.client else ""
    wait = services.accounts.failures(user, address)
    with _HASHING:
        account = services.accounts.check(user, password, address) if wait <= 0 else None
    if account is None:
        wait = services.accounts.failures(user, address)
        if wait > 0:
            seconds = math.ceil(wait)
            raise LoginRefused(
                f"Too many wrong passwords. Try again in {seconds} seconds.", seconds
            )
        raise LoginRefused("User name or password is wrong, or the account is disabled.")
    token = services.accounts.open_session(
        account.user, old_token=getattr(request.state, "session_token", None)
    )
    services.record(account, "login", f"user {account.user}")
    return token, account


def sign_in(request: Request, user: str, password: str, then: str = "/") -> RedirectResponse:
    """Log a user in and redirect to a page of the console.

    Raises:
        LoginRefused: If the password is wrong, or was wrong too often.
    """
    services = get_services(request)
    token, _ = open_session(request, services, user, password)
    response = redirect(request, local_path(then))
    set_cookie(response, services.settings, SESSION, token)
    delete_cookie(response, services.settings, ANONYMOUS)
    return response


def close_session(request: Request, services: Services) -> None:
    """End the session of a request."""
    visitor = request.state.visitor
    services.accounts.close_session(request.state.session_token)
    services.record(visitor, "logout", f"user {visitor.user}")


def sign_out(request: Request) -> RedirectResponse:
    """Log a user out and redirect to the login page."""
    services = get_services(request)
    close_session(request, services)
    response = redirect(request, "/login", flash="You are logged out.")
    delete_cookie(response, services.settings, SESSION)
    return response


def set_theme(request: Request, theme: str, then: str = "/") -> RedirectResponse:
    """Save in a cookie whether a user wants dark or light pages."""
    response = redirect(request, local_path(then))
    value = theme if theme in THEMES else "auto"
    set_cookie(response, get_services(request).settings, THEME, value, seconds=_YEAR_SECONDS)
    return response


def local_path(then: str) -> str:
    """Return a path of this console unchanged, and ``/`` for every other address."""
    parts = urlsplit(then)
    is_ours = (
        then.startswith("/") and not then.startswith("//") and not parts.scheme and not parts.netloc
    )
    return then if is_ours and "\\" not in then and then.isprintable() else "/"
