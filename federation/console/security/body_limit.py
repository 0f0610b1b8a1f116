"""ASGI middleware that refuses too large request bodies while they are read."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SMALL_BODY = 1024 * 1024  # bytes: forms and JSON


class BodyLimit:
    """Middleware that limits the size of request bodies.

    Args:
        app: The wrapped app.
        limits: Start of a path -> most bytes; all other paths: ``SMALL_BODY``.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; answer 413 if its body is too large."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = next(
            (limit for start, limit in self.limits.items() if scope["path"].startswith(start)),
            SMALL_BODY,
        )
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            content = {"error": {"code": "too_large", "message": too_large(limit)}}
            await JSONResponse(content, 413)(scope, receive, send)
            return
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, too_large(limit))
            return message

        await self.app(scope, counting_receive, send)


def too_large(limit: int) -> str:
    """Return the message about a body over a limit in bytes."""
    return (
        f"The request is larger than {limit / SMALL_BODY:g} MiB. "
        "Send fewer or smaller files at a time."
    )
