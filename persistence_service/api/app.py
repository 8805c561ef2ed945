"""The application factory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from persistence_service import __version__
from persistence_service.api.body import BodyGuard
from persistence_service.api.dependencies import AppState
from persistence_service.api.documentation import add_documentation
from persistence_service.api.errors import add_error_handlers
from persistence_service.api.middleware import (
    BrowserGuard,
    Compression,
    CrossOrigin,
    HeadAsGet,
    PeerGuard,
    RequestContext,
)
from persistence_service.api.openapi import DocumentedApi
from persistence_service.api.routers import administration, flush, ingest, query, recovery, stats, system
from persistence_service.bootstrap import Services
from persistence_service.observability.metrics import Metrics
from persistence_service.settings import LimitSettings, SecuritySettings, Settings

OpenServices = Callable[[], AbstractAsyncContextManager[Services]]


def create_app(open_services: OpenServices) -> FastAPI:
    """The application. `open_services` is entered when it starts and left when it stops; nothing is opened before."""
    running: list[Services] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[AppState]:
        async with open_services() as services:
            running.append(services)
            try:
                yield {"services": services}
            finally:
                running.clear()

    # Middleware is built before the services are open, so it asks for what it needs of them.
    def metrics() -> Metrics | None:
        return running[0].metrics if running else None

    unset = Settings()

    def security() -> SecuritySettings:
        return (running[0].settings if running else unset).security

    def limits() -> LimitSettings:
        return (running[0].settings if running else unset).limits

    app = DocumentedApi(
        (
            ingest.router,
            flush.router,
            query.router,
            recovery.router,
            administration.router,
            stats.router,
            system.router,
        ),
        title="Persistence Service",
        version=__version__,
        summary="Keeps the results of translation workers safe until they are in the database.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    add_documentation(app)
    add_error_handlers(app, app.calls)
    # The last one added is the first to see a request.
    app.add_middleware(BodyGuard, limits=limits)
    app.add_middleware(Compression)
    app.add_middleware(BrowserGuard, security=security)
    app.add_middleware(CrossOrigin, security=security)
    app.add_middleware(PeerGuard, security=security)
    app.add_middleware(RequestContext, metrics=metrics)
    app.add_middleware(HeadAsGet)
    return app
