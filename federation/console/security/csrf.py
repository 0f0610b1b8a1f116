"""Protection against cross-site request forgery: a token per session and the Origin header.

The token is a keyed hash of the session's secret, so it needs no store and ends with the session.
Before login, the form is bound to a random cookie in the same way, so that no other site can log
a browser in under another name.
"""

import hmac
import secrets
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import Request

from federation.console.security.cookies import ANONYMOUS, cookie_name

if TYPE_CHECKING:
    from federation.console.services import Services, Visitor

FIELD, HEADER = "csrf_token", "X-CSRF-Token"


def csrf_token(secret: bytes, bound_to: str) -> str:
    """Return the token for the secret of a session or of an anonymous cookie."""
    return _mac(secret, "csrf", bound_to)


def is_csrf_token(secret: bytes, bound_to: str, token: str) -> bool:
    """Return whether a token is right, in constant time."""
    return _equal(csrf_token(secret, bound_to), token)


def seal(secret: bytes, purpose: str, value: str) -> str:
    """Return a value with a signature that is valid for one purpose only."""
    return f"{value}.{_mac(secret, purpose, value)}"


def unseal(secret: bytes, purpose: str, sealed: str) -> str | None:
    """Return the value that ``seal`` signed; None if the signature is wrong."""
    value, _, mac = sealed.rpartition(".")
    return value if value and _equal(_mac(secret, purpose, value), mac) else None


def is_same_origin(request: Request) -> bool:
    """Return whether a request comes from the console's own pages, by the browser's headers.

    Without these headers the client is no current browser; SameSite=Strict cookies cover the rest.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    host = request.headers.get("host", "").lower()
    return origin is None or urlsplit(origin).netloc.lower() == host


def token_for_page(
    request: Request, services: "Services", visitor: "Visitor | None"
) -> tuple[str, str | None]:
    """Return the token for the forms of a page, and a new anonymous cookie if it needs one."""
    if visitor is not None:
        return visitor.csrf_token, None
    anonymous = request.cookies.get(cookie_name(services.settings, ANONYMOUS), "")
    if anonymous:
        return csrf_token(services.secret, anonymous), None
    anonymous = secrets.token_urlsafe(32)
    return csrf_token(services.secret, anonymous), anonymous


def _equal(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode(errors="replace"))


def _mac(secret: bytes, purpose: str, value: str) -> str:
    return hmac.new(secret, f"{purpose}\0{value}".encode(), sha256).hexdigest()
