"""Puts the console together: services from settings, an app from services. Opens no port."""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

from argon2 import PasswordHasher
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.console import pages
from federation.console.api import api_routers
from federation.console.health import router as health
from federation.console.job_queue import Jobs
from federation.console.model_answers import Looks
from federation.console.registry_view import RegistryView
from federation.console.rendering import make_environment
from federation.console.security.error_answers import add_answers
from federation.console.security.guard import check_table
from federation.console.security.headers import SafeAnswers
from federation.console.security.limits import SMALL_BODY, BodyLimit
from federation.console.services import Clock, Services, utc_now
from federation.console.settings import ConsoleSettings, read_secret
from federation.console.trainings import Trainings
from physical.mirror import Mirror
from twin.review.accounts import Accounts
from twin.review.store import ReviewStore
from twin.review.workflow import SYSTEM

STATIC = Path(__file__).parent / "static"
_UPLOADS = ("/intake", "/api/v1/intake")


def make_services(
    settings: ConsoleSettings, clock: Clock = utc_now, hasher: PasswordHasher | None = None
) -> Services:
    """Open everything that a console needs; nothing is started.

    Args:
        settings: Of the console.
        clock: The time.
        hasher: How passwords are hashed; none: as they should be.
    """
    url, anchor = settings.review_url, settings.audit_anchor
    store = ReviewStore(url, clock, anchor)
    idle = timedelta(minutes=settings.idle_minutes)
    accounts = Accounts(url, clock, anchor, hasher, idle=idle)
    catalogue = ClassCatalogue(url, clock)
    mirrors = {
        hospital: Mirror(settings.hospital(hospital).mirror, settings.image_size)
        for hospital in settings.hospitals
    }
    registry = RegistryView(settings.folder / "registry.json", settings.models_folder)
    trainings = Trainings(settings, store, catalogue, mirrors, registry)
    jobs = Jobs(settings.jobs_folder, trainings.prepare, trainings.settle, clock)
    looks = Looks(settings, registry, mirrors)
    return Services(
        settings,
        store,
        accounts,
        store.audit,
        catalogue,
        mirrors,
        jobs,
        registry,
        looks,
        read_secret(settings),
        clock=clock,
    )


def make_app(settings: ConsoleSettings, services: Services, *, with_jobs: bool = True) -> FastAPI:
    """Return the web app.

    Args:
        settings: Of the console.
        services: What it works with.
        with_jobs: Look after the jobs while the app runs; otherwise somebody else does.

    Raises:
        RouteTableError: If a route has no row in the table of roles, or a row no route.
    """
    routers = (*pages.routers, *api_routers(), health)
    check_table(routers)
    app = FastAPI(
        title=f"{settings.federation_name}: clinicians' console",
        version="1",
        description="Every action of the console. Log in with POST /api/v1/login and send its token as a bearer token.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=_running(services) if with_jobs else None,
    )
    for router in routers:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.state.services, app.state.templates = services, make_environment(pages.FILTERS)
    add_answers(app)
    megabytes = settings.max_upload_megabytes * SMALL_BODY
    app.add_middleware(
        TrustedHostMiddleware, allowed_hosts=list(settings.trusted_hosts), www_redirect=False
    )
    app.add_middleware(BodyLimit, limits=dict.fromkeys(_UPLOADS, megabytes))
    app.add_middleware(SafeAnswers, https=settings.secure_cookies)
    return app


def _running(
    services: Services,
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        start(services)
        try:
            yield
        finally:
            services.jobs.close()
            services.looks.close()

    return running


def start(services: Services) -> None:
    """Look at the store of models if there is one, and look after the jobs from now on."""
    database = services.settings.models_url.removeprefix("sqlite:///")
    is_there = not services.settings.models_url.startswith("sqlite:///") or Path(database).exists()
    services.jobs.forget("versions")
    if is_there:
        services.jobs.add("versions", SYSTEM.user, SYSTEM.role)
    services.jobs.watch()
