"""Requests that another site made a browser send are refused: a token per session, and the Origin header. Knows no route.

The token is a keyed hash of the session's own secret, so it needs no store, dies with the session and says nothing about it. Before there
is a session, the login form is bound to a random cookie in the same way, so that nobody can be logged in as somebody else.
"""

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import Request

from federation.console.security.cookies import ANONYMOUS, cookie_name

if TYPE_CHECKING:
    from federation.console.services import Services, Visitor

FIELD, HEADER = "csrf_token", "X-CSRF-Token"


@dataclass(frozen=True)
class NewCookie:
    """A cookie that the answer must set."""

    name: str
    value: str


def csrf_token(secret: bytes, bound_to: str) -> str:
    """Return the token of a session, or of an anonymous cookie."""
    return _mac(secret, "csrf", bound_to)


def is_csrf_token(secret: bytes, bound_to: str, token: str) -> bool:
    """Whether a token belongs to that session; takes the same time for every wrong one."""
    return hmac.compare_digest(
        csrf_token(secret, bound_to).encode(), token.encode(errors="replace")
    )


def seal(secret: bytes, purpose: str, value: str) -> str:
    """Return a value with a signature that is good for one purpose."""
    return f"{value}.{_mac(secret, purpose, value)}"


def unseal(secret: bytes, purpose: str, sealed: str) -> str | None:
    """Return the value of ``seal``; none if anything about it is not ours."""
    value, _, mac = sealed.rpartition(".")
    return (
        value
        if value
        and hmac.compare_digest(_mac(secret, purpose, value).encode(), mac.encode(errors="replace"))
        else None
    )


def is_own_origin(request: Request) -> bool:
    """Whether a browser says that the request comes from our own pages, or says nothing (no browser; SameSite=Strict holds the rest)."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def token_for_page(
    request: Request, services: "Services", visitor: "Visitor | None"
) -> tuple[str, NewCookie | None]:
    """Return the token for a page's forms, and the cookie that it needs where nobody is logged in yet."""
    if visitor is not None:
        return visitor.csrf_token, None
    anonymous = request.cookies.get(cookie_name(services.settings, ANONYMOUS), "")
    new = None
    if not anonymous:
        anonymous = secrets.token_urlsafe(32)
        new = NewCookie(ANONYMOUS, anonymous)
    return csrf_token(services.secret, anonymous), new


def _mac(secret: bytes, purpose: str, value: str) -> str:
    return hmac.new(secret, f"{purpose}\0{value}".encode(), sha256).hexdigest()
