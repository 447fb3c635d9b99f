"""One response on its way: what the model is asked, and the events that its answer makes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from api.errors import Busy, Invalid, engine_problem
from api.generation import conversation
from api.generation.engine_client import EngineRefused, EngineUnavailable
from api.platform import Platform
from api.routes.openai.answers import Asked
from api.routes.openai.chat import ask_chat, tool_headers
from api.routes.openai.responses.items import new_id
from api.routes.openai.responses.output import FINAL, Event, OutputWriter
from api.routes.openai.responses.presenter import new_response, without_output
from api.routes.openai.responses.request import Context, chat_request, shorter
from api.routes.openai.responses.schemas import PromptRequest, ResponseRequest
from api.routes.openai.schemas import ChatRequest
from registry.repositories.responses import ConversationRepository, ResponseRepository
from registry.tables import StoredResponse

FAILURES = (EngineRefused, EngineUnavailable, Busy, SQLAlchemyError)
PREFIX = "resp"


@dataclass(frozen=True, slots=True)
class Run:
    """A response that was asked for."""

    body: ResponseRequest
    context: Context
    chat: ChatRequest
    asked: Asked
    writer: OutputWriter
    headers: dict[str, str]
    """Those of its answer."""

    @property
    def response(self) -> dict[str, Any]:
        """The response as it stands."""
        return self.writer.response


async def prepare(platform: Platform, body: ResponseRequest) -> Run:
    """Return what a request asks for; raises what is wrong with it, and `NotFound`, `Conflict`, `ServiceDown`."""
    if body.background and body.store is False:
        raise Invalid("store is false, but what is answered in the background must be stored.", param="store")

    context = await context_of(platform, body)
    chat = chat_request(body, context.items)
    asked = await ask_chat(platform, PREFIX, chat)
    response = new_response(new_id(PREFIX), asked.created, body)
    writer = OutputWriter(response, with_logprobs=body.with_logprobs)
    return Run(body, context, chat, asked, writer, await tool_headers(platform, asked))


async def context_of(platform: Platform, body: PromptRequest) -> Context:
    """Return what a request goes on from and adds to that; raises as `Context`."""

    def read() -> Context:
        with platform.database.reading() as session:
            return Context(session, body)

    return await asyncio.to_thread(read)


async def events_of(platform: Platform, run: Run) -> AsyncGenerator[Event | None, None]:
    """Yield the response's events, and None while nothing comes; the last one is final.

    What fails before a stream has begun, or where there is none, is raised; what fails later becomes events.
    """
    begun = False
    try:
        async with aclosing(_said(platform, run)) as said:
            async for one in said:
                if not begun:
                    begun = True
                    for event in run.writer.begin(queued=bool(run.body.background)):
                        yield event
                if one is None:
                    yield None
                    continue
                events = run.writer.push(one)
                if events and events[-1]["type"] in FINAL and not run.body.background:
                    # Before its last event: who has it can go on from the response.
                    await asyncio.to_thread(keep, platform, run)
                for event in events:
                    yield event
    except FAILURES as error:
        if not begun or not (run.body.stream or run.body.background):
            raise
        for event in run.writer.fail(*told(error)):
            yield event


def keep(platform: Platform, run: Run) -> None:
    """Store a response that has ended, unless it is not to be, and add to its conversation."""
    with platform.database.transaction() as session:
        if run.body.store is not False:
            responses = ResponseRepository(session)
            add_response(responses, run, run.response["output"])
            responses.use(run.context.chain)
        if run.context.conversation is not None:
            items = [*run.context.inputs, *run.response["output"]]
            ConversationRepository(session).append(run.context.conversation, items)


def add_response(responses: ResponseRepository, run: Run, outputs: list[dict[str, Any]]) -> StoredResponse:
    """Insert the response as it stands."""
    row = StoredResponse(
        uid=run.response["id"],
        status=run.response["status"],
        previous_uid=run.body.previous_response_id,
        body=without_output(run.response),
    )
    return responses.add(row, run.context.inputs, outputs)


async def _said(platform: Platform, run: Run) -> AsyncGenerator[conversation.Said | None, None]:
    """Yield what the model says; a prompt that is too long loses its oldest messages if it may."""
    chat, asked, dropped = run.chat, run.asked, 1
    while True:
        begun = False
        try:
            async with aclosing(conversation.pieces(platform.generations, asked.requests, chat.offered_names)) as said:
                async for one in said:
                    begun = begun or one is not None
                    yield one
        except EngineRefused as error:
            left = shorter(run.chat, dropped)
            may_drop = run.body.truncation == "auto" and error.code == "prompt_too_long" and not begun
            if not may_drop or left is None:
                raise
            chat, dropped = left, dropped * 2
            asked = await ask_chat(platform, PREFIX, chat)
        else:
            return


def told(error: Exception) -> tuple[str, str]:
    """Return the code and the sentence of a failure."""
    if isinstance(error, Busy):
        return "busy", error.message
    if isinstance(error, EngineRefused | EngineUnavailable):
        problem = engine_problem(error)
        return problem.code, problem.message
    return "part_down", "The answer could not be stored, as the database does not answer; try again in a few seconds."
