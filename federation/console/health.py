"""``/health``: whether the console answers and its database does. Says nothing about anybody."""

from fastapi.responses import PlainTextResponse

from federation.console.security.guard import page_router
from federation.console.services import Asked

router = page_router()


@router.get("/health")
def health(services: Asked) -> PlainTextResponse:
    """Answer ``ok`` if cases can be counted."""
    services.store.counts(None)
    return PlainTextResponse("ok\n")
