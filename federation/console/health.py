"""``/health``: liveness check of the console and its database, open to anybody."""

from fastapi.responses import PlainTextResponse

from federation.console.security.guard import page_router
from federation.console.services import ServicesDep

router = page_router()


@router.get("/health")
def health(services: ServicesDep) -> PlainTextResponse:
    """Answer ``ok`` if cases can be counted."""
    services.store.counts(None)
    return PlainTextResponse("ok\n")
