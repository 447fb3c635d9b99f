"""The app factory: guards, endpoints, errors and documentation put together."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Security
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles

from api.anthropic_errors import in_anthropics_shape
from api.audit import AuditTrail
from api.errors import DOCUMENTED_ERRORS, KEY_ERRORS, in_openais_shape, install_error_handlers
from api.guards import BodyLimit, BrowserClients, HeadRequests, site_answer
from api.json_guard import JsonGuard
from api.keys import KeyGuard
from api.platform import Platform
from api.process_probes import ProcessProbes
from api.routes.anthropic.endpoints import router as anthropic
from api.routes.audit.endpoints import router as audit
from api.routes.datasets.endpoints import router as datasets
from api.routes.evaluations.endpoints import router as evaluations
from api.routes.health.endpoints import router as health
from api.routes.keys.endpoints import router as keys
from api.routes.metrics.endpoints import router as metrics
from api.routes.models.endpoints import router as models
from api.routes.openai.conversations.endpoints import router as conversations
from api.routes.openai.endpoints import router as openai
from api.routes.openai.files.endpoints import router as files
from api.routes.openai.fine_tuning.endpoints import router as fine_tuning
from api.routes.openai.responses.endpoints import router as responses
from api.routes.openai.tokens import router as tokens
from api.routes.openai.webhooks.endpoints import router as webhooks
from api.routes.statistics.endpoints import router as statistics
from api.routes.training.endpoints import router as training
from api.version import VERSION
from configs.settings import Settings
from registry.database import upgrade
from registry.guards.sites import SiteGuard

THREADS = 40
"""As many requests may wait for the database or the disk at once, beside those of plain functions."""
DESCRIPTION = "Fine-tune, evaluate and serve language models. Runs show in Prefect, metrics and artifacts in MLflow."


def create_app(settings: Settings) -> FastAPI:
    """Return the API over the given settings; nothing runs before it is started."""
    keyed = bool(settings.known_keys)
    app = FastAPI(
        title="LLM Platform",
        version=VERSION,
        description=DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
        # It documents the keys and refuses nothing: the guard below does, also where there is no route.
        dependencies=[Security(HTTPBearer(auto_error=False))] if keyed else [],
    )
    platform = app.state.platform = Platform.build(settings)
    errors = DOCUMENTED_ERRORS | (KEY_ERRORS if keyed else {})
    endpoints = APIRouter(prefix="/api", responses=errors)
    for router in (health, models, datasets, training, evaluations, statistics, keys, audit):
        endpoints.include_router(router)
    app.include_router(endpoints)
    for router in (openai, files, fine_tuning, webhooks, responses, conversations):
        app.include_router(router, prefix="/v1", responses=in_openais_shape(errors))
    app.include_router(anthropic, prefix="/v1", responses=in_anthropics_shape(errors))
    app.include_router(tokens, responses=in_openais_shape(errors))
    app.include_router(metrics, include_in_schema=False)
    _serve_documentation(app)
    install_error_handlers(app)
    uploads = dict.fromkeys(("/api/datasets", "/v1/files"), settings.max_upload_bytes)
    app.add_middleware(HeadRequests)
    app.add_middleware(JsonGuard, max_bytes=settings.max_request_bytes)
    app.add_middleware(BodyLimit, max_bytes=settings.max_request_bytes, of_paths=uploads)
    # The last to be added is the first to be asked.
    app.add_middleware(AuditTrail, database=platform.database)
    hosts, origins = settings.allowed_hosts, settings.allowed_origins
    app.add_middleware(SiteGuard, allowed_hosts=hosts, allowed_origins=origins, answer=site_answer)
    if keyed:
        app.add_middleware(KeyGuard, known=platform.keys, counters=platform.counters)
    app.add_middleware(BrowserClients, allowed_origins=origins)
    # Before every guard: who asks whether a process lives has no key, and calls it by its address.
    app.add_middleware(ProcessProbes, objection=platform.monitor.objection)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    platform: Platform = app.state.platform
    upgrade(platform.settings.platform_database_url)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="api") as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        counting = asyncio.create_task(platform.counters.run())
        try:
            yield
        finally:
            counting.cancel()
            await platform.close()


def _serve_documentation(app: FastAPI) -> None:
    """Serve Swagger UI from the installed package: the page works with no outside network."""
    app.mount("/api/static/swagger-ui", StaticFiles(packages=[("fastapi_offline", "static")]), name="swagger-ui")

    @app.get("/api/docs", include_in_schema=False)
    def show_documentation() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/api/openapi.json",
            title="LLM Platform API",
            swagger_js_url="/api/static/swagger-ui/swagger-ui-bundle.js",
            swagger_css_url="/api/static/swagger-ui/swagger-ui.css",
            swagger_favicon_url="/api/static/swagger-ui/favicon.png",
        )
