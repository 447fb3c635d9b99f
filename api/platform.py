"""What every route shares: the services of the running API, made once by the app factory."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from api.controller.availability import AvailabilityWatch
from api.controller.ingestion import Ingestion
from api.controller.mlflow_sync import MlflowSync
from api.controller.reconciler import Reconciler
from api.controller.webhook_delivery import WebhookSender
from api.generation.counting import GenerationCounter
from api.generation.engine_client import EngineClient
from api.generation.model_input import ModelInputs
from api.generation.openai_backend import OpenAIBackend
from api.generation.service import Generations, Inference
from api.keys import Refusals
from api.monitor import Monitor
from api.orchestration.prefect_client import Orchestrator
from configs.settings import Settings
from registry.database import Database

SILENCE_SECONDS = 30.0
"""How much longer than the longest generation the engine may be silent before it is taken for dead."""


@dataclass(frozen=True)
class Platform:
    """The API process's services."""

    settings: Settings
    database: Database
    orchestrator: Orchestrator
    engine: Inference
    generations: Generations
    monitor: Monitor
    reconciler: Reconciler
    tracking: MlflowSync
    ingestion: Ingestion
    availability: AvailabilityWatch
    refusals: Refusals
    webhooks: WebhookSender

    @classmethod
    def build(cls, settings: Settings) -> "Platform":
        """Make the services; nothing runs or connects yet."""
        database = Database(settings.platform_database_url)
        engine = _inference(settings)
        orchestrator = Orchestrator(settings.prefect_api_url)
        availability = AvailabilityWatch(settings, database)
        inputs, counter = ModelInputs(settings, availability.folder), GenerationCounter(database)
        return cls(
            settings=settings,
            database=database,
            orchestrator=orchestrator,
            engine=engine,
            generations=Generations(settings, engine, inputs, counter),
            monitor=Monitor(settings, database, engine),
            reconciler=Reconciler(database, orchestrator),
            tracking=MlflowSync(settings, database),
            ingestion=Ingestion(settings, database),
            availability=availability,
            refusals=Refusals(),
            webhooks=WebhookSender(settings, database),
        )

    def start(self) -> list[asyncio.Task[None]]:
        """Start what works beside the requests."""
        loops = (self.monitor, self.reconciler, self.tracking, self.ingestion, self.availability, self.webhooks)
        return [asyncio.create_task(loop.run()) for loop in (*loops, self.generations.counter)]

    async def close(self) -> None:
        """Close connections."""
        await self.orchestrator.close()
        await self.engine.close()
        await self.generations.counter.close()
        self.database.close()


def _inference(settings: Settings) -> Inference:
    # The engine keeps to the limit itself, and says so; this is for one that says nothing at all.
    seconds = settings.generation_timeout_seconds + SILENCE_SECONDS
    if settings.backend_url is not None:
        return OpenAIBackend(settings.backend_url, settings.backend_api_key, seconds, settings.generation_connections)
    return EngineClient(settings.engine_url, seconds, settings.generation_connections)


def _of_request(request: Request) -> Platform:
    return cast(Platform, request.app.state.platform)


CurrentPlatform = Annotated[Platform, Depends(_of_request)]
