"""haystack-ai."""

import asyncio

from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from openai import NotFoundError
from reporting import BASE_URL, KEY, MODEL, PLACE, QUESTION, UNKNOWN, WEATHER, capability, in_city, refused

OPTIONS = {"api_base_url": BASE_URL, "api_key": Secret.from_token(KEY)}
SHORT = {"max_completion_tokens": 40}
ASKED = ChatMessage.from_user(QUESTION)
TOOL = Tool("weather", "The weather of a city.", PLACE, lambda city: WEATHER)
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}


def generator(name=MODEL, **parts):
    return OpenAIChatGenerator(model=name, max_retries=0, generation_kwargs=SHORT, **OPTIONS, **parts)


def ask(messages, parts=None, **options):
    return generator(**(parts or {})).run(messages, generation_kwargs=options)["replies"][0]


@capability("chat")
def _():
    return ask([ASKED]).text


@capability("second turn")
def _():
    return ask([ASKED, ask([ASKED]), ChatMessage.from_user("And in Rome?")]).text


@capability("stream")
def _():
    pieces = []
    ask([ASKED], {"streaming_callback": pieces.append})
    return len(pieces) > 1 and "".join(piece.content for piece in pieces)


@capability("usage in stream")
def _():
    pieces = []
    answer = ask([ASKED], {"streaming_callback": pieces.append}, stream_options={"include_usage": True})
    return answer.meta["usage"]["completion_tokens"] and answer.meta["usage"]


def called(**parts):
    answer = ask([ASKED], {"tools": [TOOL], **parts}, tool_choice="required")
    in_city(answer.tool_calls[0].arguments)
    return answer


@capability("tools")
def _():
    answer = called()
    result = ChatMessage.from_tool(WEATHER, origin=answer.tool_calls[0])
    ask([ASKED, answer, result], {"tools": [TOOL]})
    return answer.tool_calls[0]


@capability("tools streamed")
def _():
    return called(streaming_callback=lambda piece: None).tool_calls[0]


@capability("JSON schema")
def _():
    return in_city(ask([ASKED], response_format=SCHEMA).text)


@capability("embeddings")
def _():
    return len(OpenAITextEmbedder(model=MODEL, **OPTIONS).run("A cat.")["embedding"])


@capability("responses")
def _():
    through = OpenAIResponsesChatGenerator(model=MODEL, generation_kwargs={"max_output_tokens": 30}, **OPTIONS)
    first = through.run([ASKED])["replies"][0]
    return through.run([ASKED, first, ChatMessage.from_user("And in Rome?")])["replies"][0].text


@capability("errors")
def _():
    return refused(lambda: generator(UNKNOWN).run([ASKED]), NotFoundError)


@capability("parallel")
async def _():
    one = generator()
    answers = await asyncio.gather(*(one.run_async([ASKED]) for _ in range(4)))
    return all(answer["replies"][0].text for answer in answers) and f"{len(answers)} answers"
