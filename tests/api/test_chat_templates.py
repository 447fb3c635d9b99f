"""A chat template that a client chooses: tried before anything is accepted, and used where it was chosen."""

import json
from typing import Any

import pytest

from tasks.data.ingest import TEMPLATE_SECONDS
from tests.api.test_jobs_without_prefect import create

BOMB = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = 'x' %}{% endfor %}{% endfor %}"
LARGE = "{% for message in messages %}{{ message['content'] * 1000000000 }}{% endfor %}"
ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for message in messages %}{{ message.content }}{% endfor %}"
READS = "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}{{ style or '' }}"
TOOLS = [{"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}]
CALLS = "".join(
    json.dumps(
        {
            "conversations": [
                {"from": "human", "value": f"What is on table {number}?"},
                {
                    "from": "function_call",
                    "value": json.dumps({"name": "look", "arguments": {"at": f"table {number}"}}),
                },
                {"from": "observation", "value": "a lamp"},
                {"from": "gpt", "value": f"On table {number} is a lamp."},
            ],
            "tools": json.dumps(TOOLS),
        }
    )
    + "\n"
    for number in range(30)
)


@pytest.fixture(scope="module")
def settings(settings):
    return settings.model_copy(update={"ingest_memory_gb": 1.0})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name that nobody has": (
        {"chat_template": "chatlm"},
        "there is no chat_template 'chatlm'; give a",
    ),
    "tokens that are not there": (
        {"chat_template": "gemma"},
        "<start_of_turn> and <end_of_turn>, which",
    ),
    "no Jinja": ({"chat_template": "{% for %}"}, "chat_template can't be read as a Jinja template"),
    "an argument that is not read": (
        {"chat_template": READS, "chat_template_kwargs": {"stile": "x"}},
        "the chat template reads no argument 'stile'; it reads style",
    ),
    "no answers": ({"chat_template": "{{ messages[0]['content'] }}"}, "can't be learned"),
    "a way out of the sandbox": ({"chat_template": ESCAPE}, "is unsafe"),
    "memory": ({"chat_template": LARGE}, "GB of memory"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("what", ["job", "model"])
def test_what_cannot_be_had_is_refused_at_once(client, tiny_model, case, what):
    chosen, sentence = REFUSED[case]
    if what == "job":
        response = create(client, tiny_model["id"], **chosen)
    else:
        response = client.post("/api/models", json={"name": "Other", "base_model": "tiny-llama", **chosen})
    assert response.status_code == 422, response.text
    assert sentence in response.json()["error"]


def test_a_template_that_takes_for_ever_is_refused(client, tiny_model):
    response = create(client, tiny_model["id"], chat_template=BOMB)
    assert response.status_code == 422
    assert f"takes longer than {TEMPLATE_SECONDS} s of processor time" in response.json()["error"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("chat_template", "x" * 65_537), ("chat_template", ""), ("chat_template_kwargs", {str(n): n for n in range(33)})],
)
def test_sizes_are_limited(client, tiny_model, field, value):
    response = create(client, tiny_model["id"], **{field: value})
    assert response.status_code == 422
    assert field in response.json()["error"]


def test_a_job_says_what_it_was_given(client, tiny_model):
    chosen = {"chat_template": "plain", "chat_template_kwargs": None, "add_eos": False}
    response = create(client, tiny_model["id"], **chosen)
    assert response.status_code == 201
    recipe = client.get(f"/api/training/{response.json()['id']}").json()["recipe"]
    assert {name: recipe[name] for name in chosen} == chosen


def test_rows_are_checked_in_the_chosen_format(client):
    def upload(**fields):
        return client.post("/api/datasets", files={"file": ("calls.jsonl", CALLS)}, data=fields)

    in_words = upload()
    assert in_words.status_code == 201
    assert in_words.json()["report"]["rows_told_in_words"] == 30
    assert any("told in words" in warning for warning in in_words.json()["report"]["warnings"])
    kept = upload(chat_template="plain")
    assert kept.json()["report"]["rows_told_in_words"] == 0
    assert kept.status_code == 201, kept.text
    assert kept.json()["rows"] == 30
    assert kept.json()["settings"]["chat_template"] == "plain"
    shown = client.get(f"/api/datasets/{kept.json()['id']}/preview?rendered=true&rows=1").json()["rows"][0]
    assert '<tool_call>\n{"name": "look", "arguments": {"at": "table 0"}}\n</tool_call>' in shown["rendered"]
    learned = "".join(token["text"] for token in shown["tokens"] if token["learned"])
    assert learned.count("table 0") == 2
    assert "What is on" not in learned
    other = client.get(f"/api/datasets/{kept.json()['id']}/preview?rendered=true&rows=1&chat_template=chatml")
    assert "<|im_start|>tool\na lamp<|im_end|>" in other.json()["rows"][0]["rendered"]


def test_a_form_takes_arguments_as_json(client):
    fields = {"chat_template": READS, "chat_template_kwargs": '{"style": "x"}'}
    rows = "".join(json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}) + "\n" for n in range(20))
    kept = client.post("/api/datasets", files={"file": ("rows.jsonl", rows)}, data=fields)
    assert kept.status_code == 201, kept.text
    assert kept.json()["settings"]["chat_template_kwargs"] == {"style": "x"}
    broken = client.post(
        "/api/datasets", files={"file": ("rows.jsonl", rows)}, data=fields | {"chat_template_kwargs": "x"}
    )
    assert broken.status_code == 422
    assert "chat_template_kwargs is 'x', but must be a JSON object" in broken.json()["error"]
