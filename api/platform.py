"""What every route shares: the database, and the clients of the other services, made once by the app factory."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from api.counting import SharedCounters
from api.dataset_checks import DatasetChecks
from api.generation.background import BackgroundWork
from api.generation.inference import Inference, inference_client
from api.generation.model_input import ModelInputs
from api.generation.service import Generations
from api.monitor import Monitor
from api.orchestration.prefect_client import Orchestrator
from api.orchestration.state_sync import StateSync
from api.orchestration.submission import Submission
from api.webhooks.addresses import Resolver
from configs.settings import Settings
from registry.database import Database
from registry.known_keys import KnownKeys


@dataclass(frozen=True)
class Platform:
    """The API process's clients; nothing here but the answers of the background outlives a request.

    Several processes serve one platform: what one must know of another is in the database.
    """

    settings: Settings
    database: Database
    orchestrator: Orchestrator
    submission: Submission
    state_sync: StateSync
    engine: Inference
    generations: Generations
    background: BackgroundWork
    monitor: Monitor
    keys: KnownKeys
    counters: SharedCounters
    resolver: Resolver
    dataset_checks: DatasetChecks

    @classmethod
    def build(cls, settings: Settings) -> "Platform":
        """Make the clients; nothing connects yet."""
        database = Database(settings.platform_database_url)
        engine = inference_client(settings)
        orchestrator = Orchestrator(settings.prefect_api_url, settings.services_login)
        inputs, counters = ModelInputs(settings, database), SharedCounters(database)
        return cls(
            settings=settings,
            database=database,
            orchestrator=orchestrator,
            submission=Submission(database, orchestrator),
            state_sync=StateSync(database, orchestrator),
            engine=engine,
            generations=Generations(settings, engine, inputs, counters),
            background=BackgroundWork(),
            monitor=Monitor(database, engine),
            keys=KnownKeys(database, settings.known_keys),
            counters=counters,
            resolver=Resolver(allow_internal=settings.webhook_allow_internal),
            dataset_checks=DatasetChecks(settings, database),
        )

    async def close(self) -> None:
        """End what goes on in the background, and close connections."""
        await self.background.close()
        await self.orchestrator.close()
        await self.engine.close()
        self.resolver.close()
        self.keys.close()
        await self.counters.close()
        self.database.close()


def _of_request(request: Request) -> Platform:
    return cast(Platform, request.app.state.platform)


CurrentPlatform = Annotated[Platform, Depends(_of_request)]
"""The platform that answers the request."""
