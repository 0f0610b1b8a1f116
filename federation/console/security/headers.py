"""Headers of every answer, the last net under a crash, and the access log. Pure ASGI; knows no route.

The content policy allows what comes from this console and nothing inline: a class name that carries a script is text, whatever a template
forgot.
"""

import logging
import time
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ACCESS = logging.getLogger("fedka.console.access")
_FAULTS = logging.getLogger("fedka.console")

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
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
_NO_STORE, _ASSET = "no-store", "public, max-age=3600"
_YEAR = "max-age=31536000"


class SafeAnswers:
    """Wraps the whole app.

    Args:
        app: What answers.
        https: Browsers shall come back over https only.
    """

    def __init__(self, app: ASGIApp, https: bool) -> None:
        self.app, self.https = app, https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        try:
            await self.app(scope, receive, send_safely)
        except Exception:
            _FAULTS.exception("a request failed: %s %s", scope["method"], _pattern(scope))
            if status:
                raise  # the answer is under way: nothing else can be said
            response = PlainTextResponse(
                "The console made a mistake. It has been written to its log; try again or tell the operator.\n",
                500,
            )
            await response(scope, receive, send_safely)
        finally:
            ACCESS.info(
                "%s %s %d %.0f ms",
                scope["method"],
                _pattern(scope),
                status,
                1000 * (time.perf_counter() - begun),
            )

    def _add_headers(self, headers: MutableHeaders, path: str) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        headers.setdefault("cache-control", _ASSET if path.startswith("/static/") else _NO_STORE)
        if self.https:
            headers["strict-transport-security"] = _YEAR


def _pattern(scope: Scope) -> str:
    """The route's pattern: an address itself names images, cases and users, which is nobody's business in a log."""
    return getattr(scope.get("route"), "path", "(no route)")
