"""smolagents: its model, and its agent that calls tools."""

from concurrent.futures import ThreadPoolExecutor

from openai import NotFoundError
from reporting import BASE_URL, CITIES, KEY, MODEL, PLACE, QUESTION, UNKNOWN, WEATHER, capability, in_city, refused
from smolagents import ChatMessage, MessageRole, OpenAIModel, ToolCallingAgent, tool

called = []


def model(name=MODEL, **options):
    return OpenAIModel(name, api_base=BASE_URL, api_key=KEY, client_kwargs={"max_retries": 0}, **options)


def user(text):
    return ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": text}])


@tool
def weather(city: str) -> str:
    """Tell the weather of a city.

    Args:
        city: Oslo or Rome
    """
    called.append(city)
    return WEATHER


weather.inputs["city"]["enum"] = list(CITIES)
SHORT = {"max_tokens": 40}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}


@capability("chat")
def _():
    return model(**SHORT)([user(QUESTION)]).content


@capability("second turn")
def _():
    first = model(**SHORT)([user(QUESTION)])
    return model(**SHORT)([user(QUESTION), first, user("And in Rome?")]).content


@capability("stream")
def _():
    return "".join(piece.content or "" for piece in model(**SHORT).generate_stream([user(QUESTION)]))


@capability("usage in stream")
def _():
    used = [piece.token_usage for piece in model(**SHORT).generate_stream([user(QUESTION)]) if piece.token_usage]
    return used[-1].output_tokens and used[-1]


@capability("tools")
def _():
    called.clear()
    # The agent stops after its steps: a model this small need not know when it is done.
    # Two calls at once would be one of `weather` and one of the final answer, which it does not take.
    asked = model(max_tokens=300, temperature=0, parallel_tool_calls=False)
    agent = ToolCallingAgent(tools=[weather], model=asked, max_steps=2, verbosity_level=0)
    agent.run(QUESTION)
    calls = [call for step in agent.memory.steps for call in getattr(step, "tool_calls", None) or []]
    return calls and f"{len(calls)} calls, the first of {calls[0].name}"


@capability("tools streamed")
def _():
    pieces = list(model(**SHORT).generate_stream([user(QUESTION)], tools_to_call_from=[weather]))
    calls = [call for piece in pieces for call in piece.tool_calls or []]
    return in_city("".join(call.function.arguments or "" for call in calls)) and f"{len(calls)} pieces"


@capability("JSON schema")
def _():
    return in_city(model(**SHORT)([user(QUESTION)], response_format=SCHEMA).content)


@capability("errors")
def _():
    return refused(lambda: model(UNKNOWN)([user(QUESTION)]), NotFoundError)


@capability("parallel")
def _():
    one = model(**SHORT)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: one([user(QUESTION)]).content, range(4)))
    return all(answers) and f"{len(answers)} answers"
