"""dspy: as an unknown model of `openai/`, and as a provider that is declared to keep to schemas and to call tools."""

import asyncio
from typing import Literal

import dspy
from dspy.lm15 import AccessPolicy, ModelSupport, OpenAIChatCompat, ProviderDefinition, register_provider
from reporting import BASE_URL, CITIES, KEY, MODEL, QUESTION, UNKNOWN, WEATHER, capability, told

OPTIONS = {"api_base": BASE_URL, "api_key": KEY, "cache": False, "num_retries": 0, "max_tokens": 60}


# Of a model that it doesn't know, dspy asks for any JSON (`json_object`), and for no calls.
register_provider(
    ProviderDefinition.chat(AccessPolicy(provider="platform", base_url=BASE_URL), compat=OpenAIChatCompat()),
    supports=ModelSupport(function_calling=True, response_schema=True),
)


def model(name=MODEL, provider="openai", **options):
    return dspy.LM(f"{provider}/{name}", **(OPTIONS | options))


class Locate(dspy.Signature):
    """Name the city of a question."""

    question: str = dspy.InputField()
    city: Literal["Oslo", "Rome"] = dspy.OutputField()


def weather(city: Literal["Oslo", "Rome"]) -> str:
    """Tell the weather of a city."""
    return f"{city}: {WEATHER}"


def text(answers):
    answer = answers[0]
    return answer["text"] if isinstance(answer, dict) else answer


@capability("chat")
def _():
    return text(model()(QUESTION))


@capability("second turn")
def _():
    messages = [{"role": "user", "content": QUESTION}]
    messages.append({"role": "assistant", "content": text(model()(messages=messages))})
    messages.append({"role": "user", "content": "And in Rome?"})
    return text(model()(messages=messages))


@capability("tools")
def _():
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    with dspy.context(lm=model(provider="platform", tool_choice="required"), adapter=adapter):
        tools = [dspy.Tool(weather)]
        predict = dspy.Predict("question: str, tools: list[dspy.Tool] -> calls: dspy.ToolCalls")
        call = predict(question=QUESTION, tools=tools).calls.tool_calls[0]
    assert call.args["city"] in CITIES
    return call


@capability("JSON schema")
def _():
    with dspy.context(lm=model(provider="platform"), adapter=dspy.JSONAdapter()):
        return dspy.Predict(Locate)(question=QUESTION).city


@capability("embeddings")
def _():
    return dspy.Embedder(f"openai/{MODEL}", api_base=BASE_URL, api_key=KEY, caching=False)(["A cat."]).shape


@capability("responses")
def _():
    return text(model(model_type="responses")(QUESTION))


@capability("errors")
def _():
    try:
        model(UNKNOWN)(QUESTION)
    except Exception as error:  # noqa: BLE001  # which it is depends on the library under it
        return told(error)


@capability("parallel")
async def _():
    answers = await asyncio.gather(*(model().acall(QUESTION) for _ in range(4)))
    return all(answers) and f"{len(answers)} answers"
