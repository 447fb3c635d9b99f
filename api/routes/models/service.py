"""What the model endpoints do: the catalogue, new models, generated text."""

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from api.engine_server.schemas import DEFAULT_MAX_LENGTH, EngineGenerateRequest
from api.errors import Busy, Conflict, NotFound
from api.generation.connections import following
from api.generation.engine_client import EngineRefused, EngineUnavailable
from api.generation.service import Event
from api.generation.sse import KEEP_ALIVE, EventStream, event
from api.idempotency import Answer, Created, IdempotentRequest, create_once
from api.listing import Paging, Part
from api.platform import Platform
from api.routes.models.adapters import BroughtAdapter, bring_adapter
from api.routes.models.schemas import GenerateRequest, GenerateResponse, ModelCreate, ModelCreated
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.locking import Lock
from registry.repositories.models import ModelRepository
from registry.repositories.paging import Filters
from registry.tables import Model
from registry.weights import Availability, probe, weights_on_disk


def list_models(database: Database, paging: Paging, filters: Filters) -> Part[Model]:
    """Return the wanted part of the models."""
    with database.reading() as session:
        models = ModelRepository(session)
        return paging.read(lambda limit, after, newest: models.list(limit, after, filters, newest_first=newest))


def read_model(database: Database, model_id: int) -> Model:
    """Return the model, or raise `NotFound`."""
    with database.reading() as session:
        return model_in(session, model_id)


def model_in(session: Session, model_id: int, lock: Lock | None = None) -> Model:
    """Return the model within a session, or raise `NotFound`."""
    model = ModelRepository(session).get(model_id, lock)
    if model is None:
        raise NotFound(f"There is no model with the id {model_id}; GET /api/models lists those there are.")
    return model


def delete_model(platform: Platform, model_id: int) -> Model:
    """Delete a model and what its training made, and return it; raise `Conflict` with what uses it, if anything."""
    with platform.database.transaction() as session:
        models, model = ModelRepository(session), model_in(session, model_id, "change")
        users = models.users(model_id)
        if users:
            raise Conflict(f"Model {model_id} ({model.name}) is used by {', '.join(users)}; end or delete those first.")
        models.remove(model)
    if (folder := _adapter_folder(platform, model)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
    elif model.weights is not None:  # with an adapter, the weights are those of a model that it came from
        shutil.rmtree(platform.settings.weights_dir / model.weights, ignore_errors=True)
    return model


async def is_loaded(platform: Platform, model: Model) -> bool | None:
    """Return whether the engine has the model, with its adapter, in memory; None if it does not answer."""
    engine = await platform.monitor.engine()
    if engine is None:
        return None
    folder = await asyncio.to_thread(weights_on_disk, model, platform.settings)
    adapter = _adapter_folder(platform, model)
    return any(
        loaded["weights"] == str(folder)
        and loaded["loaded"]
        and (adapter is None or str(adapter) in loaded["adapters"])
        for loaded in engine.models
    )


def _adapter_folder(platform: Platform, model: Model) -> Path | None:
    return platform.settings.adapters_dir / model.adapter if model.adapter is not None else None


def create_model(platform: Platform, body: ModelCreate, once: IdempotentRequest | None) -> Created:
    """Add a model over weights that exist, or that may come to exist: its status says which."""
    # Asked before the transaction: the hub may take seconds to answer, and nobody's write waits for that.
    brought = bring_adapter(platform.settings, body.base_model)
    if brought is None:
        found = probe(body.base_model, platform.settings.models_dir, platform.settings.allow_hub)
        return create_once(platform.database, once, lambda session: _insert_model(session, body, found))
    created = create_once(platform.database, once, lambda session: _insert_model(session, body, brought.found, brought))
    if brought.folder is not None:
        with platform.database.reading() as session:
            model = ModelRepository(session).get(created.resource_id)
        if model is None or model.adapter != brought.folder.name:  # the answer is an earlier request's
            shutil.rmtree(brought.folder, ignore_errors=True)
    return created


def _insert_model(
    session: Session, body: ModelCreate, found: Availability, brought: BroughtAdapter | None = None
) -> tuple[int, Answer]:
    model = ModelRepository(session).add(
        Model(
            name=body.name,
            base_model=brought.base_model if brought is not None else body.base_model,
            adapter=brought.folder.name if brought is not None and brought.folder is not None else None,
            description=body.description,
            model_size=body.model_size or found.model_size,
            chat_format=None if body.is_own else body.chat_format.model_dump(),
            status=found.status,
            status_reason=found.reason,
        )
    )
    message = "Model created successfully"
    answer = ModelCreated(
        id=model.id,
        name=model.name,
        base_model=model.base_model,
        status=found.status,
        status_reason=found.reason,
        message=message if found.status == "AVAILABLE" else f"{message}; its weights can't be loaded now",
    )
    return model.id, answer.model_dump()


async def generate(platform: Platform, model_id: int, body: GenerateRequest) -> GenerateResponse:
    """Return the prompt followed by its continuation, and count the answer."""
    model, request = await asyncio.to_thread(_prepare, platform, model_id, body)
    started = time.monotonic()
    (result,) = await platform.generations.whole([request])
    return _answer(model, body, result.model_dump(), round(time.monotonic() - started, 3))


async def stream(platform: Platform, model_id: int, body: GenerateRequest) -> EventStream:
    """Return server-sent events: pieces of text as they come, then the documented answer as the event `done`.

    What is wrong with the request is raised here, before the first event.
    """
    model, request = await asyncio.to_thread(_prepare, platform, model_id, body)
    source = platform.generations.pieces([request])
    first = await anext(source)
    return EventStream(_events(model, body, first, source), source, cache_control="no-cache")


async def _events(
    model: Model, body: GenerateRequest, first: Event, rest: AsyncIterator[Event]
) -> AsyncGenerator[bytes, None]:
    started, said, pieces = time.monotonic(), dict[str, Any](), [body.prompt]
    try:
        async for _, said in following(first, rest):
            if "text" in said:
                pieces.append(said["text"])
                yield event({"text": said["text"]})
            elif not said.get("done"):
                yield KEEP_ALIVE
    except (EngineRefused, EngineUnavailable, Busy) as error:
        # The status line has gone out; the last event is the only place left to say it.
        yield event({"error": f"The inference engine stopped answering: {error}", "code": "part_down"}, "error")
        return
    answer = _answer(model, body, said | {"text": "".join(pieces)}, round(time.monotonic() - started, 3))
    yield event(answer.model_dump(mode="json"), "done")


def _prepare(platform: Platform, model_id: int, body: GenerateRequest) -> tuple[Model, EngineGenerateRequest]:
    model = read_model(platform.database, model_id)
    settings = body.model_dump(exclude={"stream", "stop"})
    if body.max_length is None and body.max_new_tokens is None:
        settings["max_length"] = DEFAULT_MAX_LENGTH
    settings["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    limit = "max_length" if body.max_new_tokens is None else "max_new_tokens"
    platform.generations.require_bounded(1, 1, settings[limit], limit)
    return model, platform.generations.inputs.request(model, **settings)


def _answer(model: Model, body: GenerateRequest, result: dict[str, Any], seconds: float) -> GenerateResponse:
    limit = body.max_length or DEFAULT_MAX_LENGTH
    if body.max_new_tokens is not None:
        limit = result["prompt_tokens"] + body.max_new_tokens
    used: dict[str, Any] = {
        "temperature": body.temperature,
        "max_length": limit,
        "top_p": body.top_p,
        "top_k": body.top_k,
    }
    # Beyond the four documented ones, what the client has set is echoed.
    used |= body.model_dump(exclude={"prompt", "stream", *used}, exclude_unset=True)
    return GenerateResponse(
        text=result["text"],
        model_id=model.id,
        model_name=model.name,
        generation_time=seconds,
        parameters=used,
        timestamp=utcnow(),
        finish_reason=result["finish_reason"],
        prompt_tokens=result["prompt_tokens"],
        generated_tokens=result["generated_tokens"],
    )
