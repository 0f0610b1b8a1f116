"""A request body that is too large is refused while it is read, not after. Pure ASGI; knows no route but by the start of its path."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SMALL_BODY = 1024 * 1024  # bytes: forms and JSON


class BodyLimit:
    """Counts what arrives.

    Args:
        app: What answers.
        limits: Start of a path -> most bytes; all others: ``SMALL_BODY``.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or say 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = next(
            (limit for start, limit in self.limits.items() if scope["path"].startswith(start)),
            SMALL_BODY,
        )
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await JSONResponse({"error": {"code": "too_large", "message": too_large(limit)}}, 413)(
                scope, receive, send
            )
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, too_large(limit))
            return message

        await self.app(scope, counted, send)


def too_large(limit: int) -> str:
    """Return what to say about a body over a limit in bytes."""
    return f"The request is larger than {limit / SMALL_BODY:g} MiB. Send fewer or smaller files at a time."
