"""Security headers of every response, a plain 500 after a crash, and the access log, as ASGI.

The content security policy allows files of this console and nothing inline, so that a script in a
class name cannot run even if a template failed to escape it.
"""

import logging
import time
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ACCESS_LOG = logging.getLogger("fedka.console.access")
_log = logging.getLogger("fedka.console")

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_NO_STORE, _STATIC_FILE = "no-store", "public, max-age=3600"
_ONE_YEAR = "max-age=31536000"


class SecurityHeaders:
    """Middleware around the whole app.

    Args:
        app: The wrapped app.
        https: Tell browsers to use https only from now on.
    """

    def __init__(self, app: ASGIApp, https: bool) -> None:
        self.app, self.https = app, https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        try:
            await self.app(scope, receive, send_safely)
        except Exception:
            _log.exception("a request failed: %s %s", scope["method"], _pattern(scope))
            if status:
                raise  # the response has begun and cannot be replaced
            response = PlainTextResponse(
                "The console made a mistake. It has been written to its log; "
                "try again or tell the operator.\n",
                500,
            )
            await response(scope, receive, send_safely)
        finally:
            ACCESS_LOG.info(
                "%s %s %d %.0f ms",
                scope["method"],
                _pattern(scope),
                status,
                1000 * (time.perf_counter() - started),
            )

    def _add_headers(self, headers: MutableHeaders, path: str) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        headers.setdefault(
            "cache-control", _STATIC_FILE if path.startswith("/static/") else _NO_STORE
        )
        if self.https:
            headers["strict-transport-security"] = _ONE_YEAR


def _pattern(scope: Scope) -> str:
    """Return the route's pattern, because addresses name images, cases and users."""
    return getattr(scope.get("route"), "path", "(no route)")
