"""From rows with calls, in a template that the model does not have, to a call that OpenAI's SDK reads."""

import json

import pytest

from configs.chat_format import CHAT_TEMPLATE_FILE

TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}}}},
]
CALL = {"name": "look", "arguments": '{"at": "table"}'}
MESSAGES = [
    {"role": "user", "content": "What is there?"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": CALL}]},
    {"role": "tool", "content": "a lamp", "tool_call_id": "c1"},
    {"role": "assistant", "content": "A lamp."},
]
# The same conversation after a number that is never the same: rows that are equal would be all held out, or none.
ROWS = "".join(
    json.dumps({"messages": [{"role": "system", "content": str(number)}, *MESSAGES], "tools": TOOLS}) + "\n"
    for number in range(40)
)
RECIPE = {"max_seq_length": 512, "learning_rate": 0.01, "epochs": 12, "batch_size": 4, "method": "full"}


@pytest.fixture(scope="module")
def caller(platform):
    """The id of a model that has learned to call by heart."""
    base = platform.http.post("/models", json={"name": "Long", "base_model": "tiny-long-llama"}).json()["id"]
    files = {"file": ("calls.jsonl", ROWS)}
    dataset = platform.http.post("/datasets", files=files, data={"chat_template": "plain"}).json()["id"]
    body = {"model_id": base, "job_name": "calls", "dataset_id": dataset, "chat_template": "plain", **RECIPE}
    job = platform.http.post("/training", json=body | {"auto_evaluate": False}).json()["id"]
    record = platform.wait_for_job(job, "COMPLETED")
    return record["output_model_id"]


def asked(numbers="7"):
    return [{"role": "system", "content": numbers}, MESSAGES[0]]


def test_it_calls_reads_the_result_and_answers(client, caller):
    messages = asked()
    first = client.chat.completions.create(model=str(caller), messages=messages, tools=TOOLS, temperature=0)
    assert first.choices[0].finish_reason == "tool_calls"
    message = first.choices[0].message
    (call,) = message.tool_calls
    assert (message.content, call.function.name) == (None, "look")
    assert json.loads(call.function.arguments) == {"at": "table"}
    messages.append({"role": "assistant", "content": None, "tool_calls": [call.model_dump()]})
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "a lamp"})
    second = client.chat.completions.create(model=str(caller), messages=messages, tools=TOOLS, temperature=0)
    assert (second.choices[0].message.content, second.choices[0].finish_reason) == ("A lamp.", "stop")


def test_a_streamed_call_is_the_same(client, caller):
    stream = client.chat.completions.create(
        model=str(caller), messages=asked(), tools=TOOLS, temperature=0, stream=True
    )
    deltas = [chunk.choices[0] for chunk in stream]
    calls = [call for choice in deltas for call in choice.delta.tool_calls or []]
    assert [call.function.name for call in calls if call.id is not None] == ["look"]
    assert {call.index for call in calls} == {0}
    assert "".join(call.function.arguments for call in calls) == '{"at": "table"}'
    assert "".join(choice.delta.content or "" for choice in deltas) == ""
    assert deltas[-1].finish_reason == "tool_calls"


def test_without_tools_it_is_text(client, caller):
    answer = client.chat.completions.create(
        model=str(caller), messages=asked(), tools=TOOLS, tool_choice="none", temperature=0, max_tokens=64
    )
    assert answer.choices[0].message.tool_calls is None


def test_the_template_is_the_models_own_from_then_on(platform, caller):
    model = platform.http.get(f"/models/{caller}").json()
    assert model["parameters"]["recipe"]["chat_template"] == "plain"
    saved = [file.read_text("utf-8") for file in (platform.data_dir / "weights").glob(f"*/{CHAT_TEMPLATE_FILE}")]
    assert any("<|assistant|>" in text for text in saved)


def test_a_base_model_can_be_given_one(platform, client):
    chosen = {"name": "With calls", "base_model": "tiny-long-llama", "chat_template": "plain"}
    model = platform.http.post("/models", json=chosen).json()["id"]
    answer = client.chat.completions.create(model=str(model), messages=asked(), tools=TOOLS, max_tokens=4)
    plain = client.chat.completions.create(model="tiny-long-llama", messages=asked(), max_tokens=4)
    # The tools are in the prompt: it is far longer.
    assert answer.usage.prompt_tokens > plain.usage.prompt_tokens + 50
