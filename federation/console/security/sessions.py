"""Logging in and out: a new session at each login, a cookie that carries its secret, and waits that grow with wrong passwords.

Sessions and waits are kept by ``twin.review.accounts``; this file turns them into answers.
"""

import math
import threading
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import RedirectResponse

from federation.console.rendering import redirect
from federation.console.security.cookies import ANONYMOUS, SESSION, THEME, drop_cookie, put_cookie
from federation.console.services import Services
from twin.review.accounts import Account

_WRONG = "User name or password is wrong, or the account is disabled."
THEMES = ("auto", "light", "dark")
_YEAR_SECONDS = 365 * 24 * 3600
_HASHING = threading.BoundedSemaphore(
    4
)  # each takes 64 MiB: many logins at once must not fill the memory


class SignInRefused(Exception):  # noqa: N818 -- a refusal is an answer, not a fault of ours
    """Nobody was logged in.

    Args:
        message: For people; the same for an unknown user and a wrong password.
        wait_seconds: Until the next attempt is looked at; none: at once.
    """

    def __init__(self, message: str, wait_seconds: int | None = None) -> None:
        super().__init__(message)
        self.message, self.wait_seconds = message, wait_seconds

    @property
    def status(self) -> int:
        """401, or 429 while one has to wait."""
        return 401 if self.wait_seconds is None else 429

    @property
    def headers(self) -> dict[str, str]:
        """``Retry-After`` where one has to wait."""
        return {} if self.wait_seconds is None else {"Retry-After": str(self.wait_seconds)}


def open_session(
    request: Request, services: Services, user: str, password: str
) -> tuple[str, Account]:
    """Check a password and open a new session; one that the browser had before is closed.

    Raises:
        SignInRefused: If the password is wrong, or was wrong too often.
    """
    address = request.client.host if request.client else ""
    wait = services.accounts.failures(user, address)
    with _HASHING:
        account = services.accounts.check(user, password, address) if wait <= 0 else None
    if account is None:
        wait = services.accounts.failures(user, address)
        if wait > 0:
            seconds = math.ceil(wait)
            raise SignInRefused(
                f"Too many wrong passwords. Try again in {seconds} seconds.", seconds
            )
        raise SignInRefused(_WRONG)
    token = services.accounts.open_session(
        account.user, old_token=getattr(request.state, "session_token", None)
    )
    services.audit.record(
        account.user, account.role, account.hospital, "login", f"user {account.user}"
    )
    return token, account


def sign_in(request: Request, user: str, password: str, then: str = "/") -> RedirectResponse:
    """Log somebody in and send them to a page of ours.

    Raises:
        SignInRefused: If the password is wrong, or was wrong too often.
    """
    services: Services = request.app.state.services
    token, _ = open_session(request, services, user, password)
    response = redirect(request, local_path(then))
    put_cookie(response, services.settings, SESSION, token)
    drop_cookie(response, services.settings, ANONYMOUS)
    return response


def close_session(request: Request, services: Services) -> None:
    """End the session of a request."""
    visitor = request.state.visitor
    services.accounts.close_session(request.state.session_token)
    services.audit.record(
        visitor.user, visitor.role, visitor.hospital, "logout", f"user {visitor.user}"
    )


def sign_out(request: Request) -> RedirectResponse:
    """Log somebody out and send them to the login page."""
    services: Services = request.app.state.services
    close_session(request, services)
    response = redirect(request, "/login", flash="You are logged out.")
    drop_cookie(response, services.settings, SESSION)
    return response


def set_theme(request: Request, theme: str, then: str = "/") -> RedirectResponse:
    """Remember whether somebody wants dark or light pages."""
    services: Services = request.app.state.services
    response = redirect(request, local_path(then))
    put_cookie(
        response,
        services.settings,
        THEME,
        theme if theme in THEMES else "auto",
        seconds=_YEAR_SECONDS,
    )
    return response


def local_path(then: str) -> str:
    """Return a path of this console, or ``/`` for whatever leads elsewhere."""
    parts = urlsplit(then)
    is_ours = (
        then.startswith("/") and not then.startswith("//") and not parts.scheme and not parts.netloc
    )
    return then if is_ours and "\\" not in then and then.isprintable() else "/"
