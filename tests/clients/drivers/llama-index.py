"""llama-index, through `llama-index-llms-openai-like` and `llama-index-embeddings-openai-like`."""

import asyncio
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses
from openai import NotFoundError
from pydantic import BaseModel
from reporting import BASE_URL, CITIES, KEY, MODEL, QUESTION, UNKNOWN, WEATHER, capability, refused

OPTIONS = {"api_base": BASE_URL, "api_key": KEY, "max_retries": 0, "max_tokens": 40}
KINDS = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 2048}
model = OpenAILike(model=MODEL, should_use_structured_outputs=True, **OPTIONS, **KINDS)
ASKED = ChatMessage(role="user", content=QUESTION)


class Place(BaseModel):
    """A city."""

    city: Literal["Oslo", "Rome"]


def weather(city: Literal["Oslo", "Rome"]) -> str:
    """Tell the weather of a city."""
    return WEATHER


TOOL = FunctionTool.from_defaults(weather)


@capability("chat")
def _():
    return model.chat([ASKED]).message.content


@capability("second turn")
def _():
    messages = [ASKED]
    messages.append(model.chat(messages).message)
    messages.append(ChatMessage(role="user", content="And in Rome?"))
    return model.chat(messages).message.content


@capability("stream")
def _():
    return "".join(piece.delta or "" for piece in model.stream_chat([ASKED]))


@capability("usage in stream")
def _():
    last = list(model.stream_chat([ASKED], stream_options={"include_usage": True}))[-1]
    return last.raw.usage.completion_tokens and last.raw.usage


@capability("tools")
def _():
    answer = model.chat_with_tools([TOOL], chat_history=[ASKED], tool_required=True)
    call = model.get_tool_calls_from_response(answer)[0]
    result = ChatMessage(role="tool", content=WEATHER, additional_kwargs={"tool_call_id": call.tool_id})
    model.chat([ASKED, answer.message, result])
    assert call.tool_kwargs["city"] in CITIES
    return call.tool_kwargs


@capability("tools streamed")
def _():
    last = list(model.stream_chat_with_tools([TOOL], chat_history=[ASKED], tool_required=True))[-1]
    call = model.get_tool_calls_from_response(last)[0]
    assert call.tool_kwargs["city"] in CITIES
    return call.tool_kwargs


@capability("JSON schema")
def _():
    return model.as_structured_llm(Place).chat([ASKED]).raw


@capability("embeddings")
def _():
    return len(OpenAILikeEmbedding(model_name=MODEL, api_base=BASE_URL, api_key=KEY).get_text_embedding("A cat."))


@capability("responses")
def _():
    through = OpenAILikeResponses(
        model=MODEL, api_base=BASE_URL, api_key=KEY, max_output_tokens=30, context_window=2048, is_chat_model=True
    )
    messages = [ASKED]
    messages.append(through.chat(messages).message)
    messages.append(ChatMessage(role="user", content="And in Rome?"))
    return through.chat(messages).message.content


@capability("errors")
def _():
    return refused(lambda: OpenAILike(model=UNKNOWN, **OPTIONS, **KINDS).chat([ASKED]), NotFoundError)


@capability("parallel")
async def _():
    answers = await asyncio.gather(*(model.achat([ASKED]) for _ in range(4)))
    return all(answer.message.content for answer in answers) and f"{len(answers)} answers"
