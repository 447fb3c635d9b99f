"""What the model endpoints do: the catalogue, new models, generated text."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from api.engine_server.schemas import DEFAULT_MAX_LENGTH, EngineGenerateRequest
from api.errors import Conflict, NotFound, ServiceDown
from api.generation.engine_client import EngineRefused, EngineUnavailable
from api.idempotency import Answer, Created, IdempotentRequest, create_once
from api.platform import Platform
from api.routes.models.schemas import GenerateRequest, GenerateResponse, ModelCreate, ModelCreated
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.models import ModelRepository
from registry.repositories.statistics import StatisticsRepository
from registry.tables import Model
from registry.weights import Availability


def list_models(database: Database, limit: int | None, after: int | None) -> Sequence[Model]:
    """Return models in id order."""
    with database.reading() as session:
        return ModelRepository(session).list(limit, after)


def read_model(database: Database, model_id: int) -> Model:
    """Return the model, or raise `NotFound`."""
    with database.reading() as session:
        return model_in(session, model_id)


def model_in(session: Session, model_id: int) -> Model:
    """Return the model within a session, or raise `NotFound`."""
    model = ModelRepository(session).get(model_id)
    if model is None:
        raise NotFound(f"There is no model with the id {model_id}; GET /api/models lists those there are.")
    return model


def delete_model(platform: Platform, model_id: int) -> Model:
    """Delete a model and what its training made, and return it; raise `Conflict` with what uses it, if anything."""
    with platform.database.transaction() as session:
        models, model = ModelRepository(session), model_in(session, model_id)
        users = models.users(model_id)
        if users:
            raise Conflict(f"Model {model_id} ({model.name}) is used by {', '.join(users)}; end or delete those first.")
        models.remove(model)
    if (folder := _adapter_folder(platform, model)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
    elif model.weights is not None:  # with an adapter, the weights are those of a model that it came from
        shutil.rmtree(platform.settings.weights_dir / model.weights, ignore_errors=True)
    return model


def is_loaded(platform: Platform, model: Model) -> bool | None:
    """Return whether the engine has the model, with its adapter, in memory; None if it does not answer."""
    if platform.monitor.engine is None:
        return None
    folder, adapter = _weights_folder(platform, model), _adapter_folder(platform, model)
    return any(
        loaded["weights"] == str(folder)
        and loaded["loaded"]
        and (adapter is None or str(adapter) in loaded["adapters"])
        for loaded in platform.monitor.engine.models
    )


def _weights_folder(platform: Platform, model: Model) -> Path | None:
    """Return where the model's weights lie; None while the base's are being fetched from the hub."""
    if model.weights is not None:
        return platform.settings.weights_dir / model.weights
    return platform.availability.folder(model.base_model)


def _adapter_folder(platform: Platform, model: Model) -> Path | None:
    return platform.settings.adapters_dir / model.adapter if model.adapter is not None else None


def require_loadable(model: Model) -> None:
    """Raise `Conflict` if the model's weights can't be loaded now."""
    if model.status == "UNAVAILABLE":
        raise Conflict(f"Model {model.id} ({model.name}) is UNAVAILABLE: {model.status_reason}")


def create_model(platform: Platform, body: ModelCreate, once: IdempotentRequest | None) -> Created:
    """Add a model over weights that exist, or that may come to exist: its status says which."""
    # Asked before the transaction: the hub may take seconds to answer, and nobody's write waits for that.
    found = platform.availability.check(body.base_model)
    return create_once(platform.database, once, lambda session: _insert_model(session, body, found))


def _insert_model(session: Session, body: ModelCreate, found: Availability) -> tuple[int, Answer]:
    model = ModelRepository(session).add(
        Model(
            name=body.name,
            base_model=body.base_model,
            description=body.description,
            model_size=body.model_size or found.model_size,
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
    result = await platform.engine.generate(request)
    await asyncio.to_thread(count_generations, platform.database)
    seconds = round(time.monotonic() - started, 3)
    return _answer(model, body, result.model_dump(), seconds)


async def stream(platform: Platform, model_id: int, body: GenerateRequest) -> AsyncIterator[str]:
    """Return server-sent events: pieces of text as they come, then the documented answer as the event `done`.

    What is wrong with the request is raised here, before the first event.
    """
    model, request = await asyncio.to_thread(_prepare, platform, model_id, body)
    events = platform.engine.stream(request)
    first = await anext(events)
    return _events(platform, model, body, first, events)


async def _events(
    platform: Platform,
    model: Model,
    body: GenerateRequest,
    first: dict[str, Any],
    rest: AsyncIterator[dict[str, Any]],
) -> AsyncIterator[str]:
    started, event, pieces = time.monotonic(), first, [body.prompt]
    try:
        while not event.get("done"):
            pieces.append(event["text"])
            yield _sse(None, {"text": event["text"]})
            event = await anext(rest)
    except (EngineRefused, EngineUnavailable, StopAsyncIteration) as error:
        # The status line has gone out; the last event is the only place left to say it.
        yield _sse("error", {"error": f"The inference engine stopped answering: {error}", "code": "part_down"})
        return
    await asyncio.to_thread(count_generations, platform.database)
    result = event | {"text": "".join(pieces)}
    answer = _answer(model, body, result, round(time.monotonic() - started, 3))
    yield _sse("done", answer.model_dump(mode="json"))


def _sse(event: str | None, data: dict[str, Any]) -> str:
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data)}\n\n"


def _prepare(platform: Platform, model_id: int, body: GenerateRequest) -> tuple[Model, EngineGenerateRequest]:
    model = read_model(platform.database, model_id)
    settings = body.model_dump(exclude={"stream", "stop"})
    if body.max_length is None and body.max_new_tokens is None:
        settings["max_length"] = DEFAULT_MAX_LENGTH
    settings["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    return model, engine_request(platform, model, **settings)


def engine_request(
    platform: Platform, model: Model, adapter: Path | None = None, **settings: Any
) -> EngineGenerateRequest:
    """Return what the engine is asked for this model, with settings of `EngineGenerateRequest`; as `engine_model`."""
    return EngineGenerateRequest(**engine_model(platform, model, adapter), **settings)


def engine_model(platform: Platform, model: Model, adapter: Path | None = None) -> dict[str, str | None]:
    """Return how a request to the engine names this model: fields of `EngineInput`.

    `adapter` is a folder with a checkpoint's adapter, to answer in the place of the model's own.
    Raises `Conflict` if the weights can't be loaded, and `ServiceDown` while they are being fetched.
    """
    require_loadable(model)
    folder = _weights_folder(platform, model)
    if folder is None:
        message = f"The weights of {model.base_model} are being fetched from the hub; try again in a while."
        raise ServiceDown("weights", message, retry_after=30)
    adapter = adapter or _adapter_folder(platform, model)
    return {
        "model": model.weights or model.base_model,
        "weights": str(folder),
        "adapter": str(adapter) if adapter is not None else None,
    }


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


def count_generations(database: Database, answers: int = 1) -> None:
    """Count answers that were given."""
    with database.transaction() as session:
        StatisticsRepository(session).count_generations(answers)
