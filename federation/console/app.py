"""The app factory: opens the services from the settings, and builds the FastAPI app from them."""

import contextlib
from collections.abc import AsyncIterator
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
from federation.console.job_queue import JobQueue
from federation.console.model_answers import ModelAnswers
from federation.console.registry_view import RegistryView
from federation.console.rendering import make_environment
from federation.console.security.body_limit import SMALL_BODY, BodyLimit
from federation.console.security.error_responses import add_error_handlers
from federation.console.security.guard import check_route_table
from federation.console.security.headers import SecurityHeaders
from federation.console.services import Clock, Services, utc_now
from federation.console.settings import ConsoleSettings, read_secret
from federation.console.training_jobs import TrainingJobs
from physical.mirror import Mirror
from twin.review.accounts import Accounts
from twin.review.store import ReviewStore
from twin.review.workflow import SYSTEM

STATIC = Path(__file__).parent / "static"
_UPLOADS = ("/intake", "/api/v1/intake")


def make_services(
    settings: ConsoleSettings, clock: Clock = utc_now, hasher: PasswordHasher | None = None
) -> Services:
    """Open the services of a console without starting its background jobs.

    Args:
        settings: Settings of the console.
        clock: Returns the time.
        hasher: Hashes passwords; None: with argon2's recommended parameters.
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
    training_jobs = TrainingJobs(settings, store, catalogue, mirrors, registry)
    return Services(
        settings,
        store,
        accounts,
        store.audit,
        catalogue,
        mirrors,
        JobQueue(settings.jobs_folder, training_jobs.prepare, training_jobs.settle, clock),
        registry,
        ModelAnswers(settings, registry, mirrors),
        read_secret(settings),
        clock,
    )


def make_app(settings: ConsoleSettings, services: Services, *, with_jobs: bool = True) -> FastAPI:
    """Return the web app.

    Args:
        settings: Settings of the console.
        services: Services of the console.
        with_jobs: Run the job queue while the app runs; otherwise another process does.

    Raises:
        RouteTableError: If a route has no row in the table of roles, or a row no route.
    """

    @contextlib.asynccontextmanager
    async def run_jobs(_: FastAPI) -> AsyncIterator[None]:
        _start_jobs(services)
        try:
            yield
        finally:
            services.jobs.close()
            services.model_answers.close()

    routers = (*pages.routers, *api_routers(), health)
    check_route_table(routers)
    app = FastAPI(
        title=f"{settings.federation_name}: clinicians' console",
        version="1",
        description="Every action of the console. "
        "Log in with POST /api/v1/login and send its token as a bearer token.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=run_jobs if with_jobs else None,
    )
    for router in routers:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.state.services, app.state.templates = services, make_environment(pages.FILTERS)
    add_error_handlers(app)
    largest_upload = settings.max_upload_megabytes * SMALL_BODY
    app.add_middleware(
        TrustedHostMiddleware, allowed_hosts=list(settings.trusted_hosts), www_redirect=False
    )
    app.add_middleware(BodyLimit, limits=dict.fromkeys(_UPLOADS, largest_upload))
    app.add_middleware(SecurityHeaders, https=settings.secure_cookies)
    return app


def _start_jobs(services: Services) -> None:
    """Start the job queue; its first job reads the model registry, if there is one."""
    database = services.settings.models_url.removeprefix("sqlite:///")
    is_there = not services.settings.models_url.startswith("sqlite:///") or Path(database).exists()
    services.jobs.remove_settled("versions")
    if is_there:
        services.jobs.add("versions", SYSTEM.user, SYSTEM.role)
    services.jobs.watch()
