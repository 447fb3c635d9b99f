"""Responses that are kept: gone on from, read, listed, deleted, answered in the background; conversations."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import openai
import pytest
from sqlalchemy import func, select, update

from api.app import create_app
from api.routes.openai.responses.background import STOPPED
from api.routes.openai.responses.stored import LEASE_SECONDS, LOST
from configs.keys import Scope, new_key
from registry.clock import utcnow
from registry.repositories.responses import ResponseRepository
from registry.tables import StoredItem, StoredResponse, StoredResponseEvents
from tests.api.openai.test_responses import EVENT, GREEDY, QUESTION, ask, chat

FINAL = ("completed", "incomplete", "failed", "cancelled")


def rows(database):
    with database.reading() as session:
        tables = (StoredResponse, StoredItem, StoredResponseEvents)
        return [session.scalar(select(func.count()).select_from(table)) for table in tables]


def wait_for(sdk, response, statuses=FINAL):
    deadline = time.monotonic() + 60
    while response.status not in statuses and time.monotonic() < deadline:
        time.sleep(0.05)
        response = sdk.responses.retrieve(response.id)
    assert response.status in statuses
    return response


def turns(*answers):
    questions = [{"role": "user", "content": text} for text in (QUESTION, "And you?", "And they?")]
    said = [{"role": "assistant", "content": answer.output_text} for answer in answers]
    return [one for pair in zip(questions, said, strict=False) for one in pair] + [questions[len(answers)]]


def test_a_response_goes_on_from_another(sdk, tiny_model):
    first = ask(sdk, instructions="Be short.")
    second = ask(sdk, "And you?", previous_response_id=first.id)
    third = ask(sdk, "And they?", previous_response_id=second.id)
    assert second.output_text == chat(sdk, turns(first))  # instructions are those of each request alone
    assert third.output_text == chat(sdk, turns(first, second))
    items = sdk.responses.input_items.list(third.id, order="asc")
    texts = [item.content[0].text for item in items]
    assert texts == [one["content"] for one in turns(first, second)]


def test_items_are_named_by_reference(sdk, tiny_model):
    first = ask(sdk)
    given = [
        {"role": "user", "content": QUESTION},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "And you?"},
    ]
    assert ask(sdk, given).output_text == chat(sdk, turns(first))
    with pytest.raises(openai.NotFoundError, match="msg_unknown"):
        ask(sdk, [{"type": "item_reference", "id": "msg_unknown"}])


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_an_input_again(sdk, tiny_model, stream):
    first = list(ask(sdk, stream=True))[-1].response if stream else ask(sdk)
    again = [{"role": "user", "content": QUESTION}, *[item.to_dict() for item in first.output]]
    answer = ask(sdk, [*again, {"role": "user", "content": "And you?"}])
    assert answer.output_text == chat(sdk, turns(first))


def test_what_is_stored_is_read_listed_and_deleted(sdk, tiny_model):
    answer = ask(sdk, metadata={"a": "b"})
    assert sdk.responses.retrieve(answer.id).to_dict() == answer.to_dict()
    assert [item.role for item in sdk.responses.input_items.list(answer.id)] == ["user"]
    sdk.responses.delete(answer.id)
    for call in (sdk.responses.retrieve, sdk.responses.delete, sdk.responses.cancel, sdk.responses.input_items.list):
        with pytest.raises(openai.NotFoundError, match=answer.id):
            call(answer.id)


def test_items_are_listed_page_by_page(sdk, tiny_model):
    given = [{"role": "user", "content": f"turn {number}"} for number in range(5)]
    answer = ask(sdk, given)
    for order, expected in (("asc", range(5)), ("desc", range(4, -1, -1))):
        listed = sdk.responses.input_items.list(answer.id, limit=2, order=order)
        assert len(listed.data) == 2
        assert [item.content[0].text for item in listed] == [f"turn {number}" for number in expected]
    with pytest.raises(openai.NotFoundError, match="msg_no"):
        sdk.responses.input_items.list(answer.id, after="msg_no")


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_written_where_nothing_is_to_be_stored(sdk, tiny_model, database, stream):
    before = rows(database)
    answer = ask(sdk, store=False, stream=stream)
    final = list(answer)[-1].response if stream else answer
    assert rows(database) == before
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(final.id)


@pytest.mark.parametrize("kind", ["unknown", "deleted", "not stored", "of a deleted one", "odd"])
def test_what_is_not_there_can_not_be_gone_on_from(sdk, tiny_model, kind):
    first = ask(sdk, store=kind != "not stored")
    uid = {"unknown": "resp_unknown", "odd": "resp_\x00"}.get(kind, first.id)
    if kind == "of a deleted one":
        uid = ask(sdk, "And you?", previous_response_id=first.id).id
    if "deleted" in kind:
        sdk.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(sdk, previous_response_id=uid)
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"


def test_a_response_in_the_background_is_what_it_is_in_the_foreground(sdk, tiny_model):
    queued = ask(sdk, background=True)
    assert (queued.status, queued.output) == ("queued", [])
    done = wait_for(sdk, queued)
    assert done.output_text == ask(sdk).output_text
    assert ask(sdk, "And you?", previous_response_id=done.id).output_text == chat(sdk, turns(done))
    assert sdk.responses.cancel(done.id).status == done.status  # too late: it stays as it is


def test_events_of_the_background_are_read_again_from_any_of_them(client, sdk, tiny_model):
    events = list(ask(sdk, background=True, stream=True))
    for event in events:
        EVENT.validate_python(event.to_dict(), strict=True)
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.incomplete"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    uid = events[0].response.id
    for after in (None, 0, 5):
        again = list(sdk.responses.retrieve(uid, stream=True, starting_after=openai.omit if after is None else after))
        start = 0 if after is None else after + 1
        assert [one.to_dict() for one in again] == [one.to_dict() for one in events[start:]]
    plain = ask(sdk)
    with pytest.raises(openai.BadRequestError, match="no events"):
        sdk.responses.retrieve(plain.id, stream=True)


def test_a_failure_in_the_background_is_told(sdk, tiny_model):
    failed = wait_for(sdk, ask(sdk, "word " * 2000, background=True))
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert "tokens" in failed.error.message
    *_, error, last = list(ask(sdk, "word " * 2000, background=True, stream=True))
    assert (error.type, last.type) == ("error", "response.failed")


ENDLESS = {"background": True, "max_output_tokens": 200}


def under_way(database):
    """The id of the newest response, once it is there and while it is answered."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with database.reading() as session:
            newest = session.scalar(select(StoredResponse).order_by(StoredResponse.id.desc()).limit(1))
        if newest is not None and newest.status in ("queued", "in_progress"):
            return newest.uid
    raise AssertionError("nothing is answered in the background")


def test_what_is_cancelled_ends(sdk, tiny_model):
    """As another process cancels it: by the row alone."""
    for _ in range(10):
        cancelled = sdk.responses.cancel(ask(sdk, **ENDLESS).id)
        if cancelled.status == "cancelled":  # it may have been answered already
            break
    assert cancelled.status == "cancelled"
    assert sdk.responses.cancel(cancelled.id).status == "cancelled"
    assert wait_for(sdk, cancelled).output == []


def test_a_stream_of_what_is_cancelled_ends(sdk, tiny_model, database):
    for _ in range(10):
        with ThreadPoolExecutor(1) as threads:
            stream = threads.submit(lambda: list(ask(sdk, **ENDLESS, stream=True)))
            cancelled = sdk.responses.cancel(under_way(database))
            last = stream.result()[-1]
        if cancelled.status == "cancelled":
            break
    assert cancelled.status == "cancelled"
    assert (last.type, last.response.status) == ("response.incomplete", "cancelled")


def test_only_the_background_is_cancelled(sdk, tiny_model):
    with pytest.raises(openai.BadRequestError, match="background"):
        sdk.responses.cancel(ask(sdk).id)


@pytest.fixture
def abandoned(sdk, tiny_model, database):
    """The id of a response whose process was killed a moment ago, and one that was killed long ago."""

    def make(seconds, streamed=False):
        done = wait_for(sdk, ask(sdk, background=True))
        with database.transaction() as session:
            row = ResponseRepository(session).get(done.id)
            seen = utcnow() - timedelta(seconds=seconds)
            values = {"status": "in_progress", "seen_at": seen, "streamed": streamed}
            session.execute(update(StoredResponse).where(StoredResponse.id == row.id).values(values))
        return done.id

    return make


def test_what_a_killed_process_answered_has_failed(sdk, abandoned):
    assert sdk.responses.retrieve(abandoned(LEASE_SECONDS / 2)).status == "in_progress"
    uid = abandoned(LEASE_SECONDS + 1)
    failed = sdk.responses.retrieve(uid)
    assert (failed.status, failed.error.message) == ("failed", LOST)
    (last,) = list(sdk.responses.retrieve(abandoned(LEASE_SECONDS + 1, streamed=True), stream=True))
    assert last.type == "response.failed"


def test_what_is_under_way_can_not_be_gone_on_from(sdk, abandoned):
    with pytest.raises(openai.BadRequestError, match="in_progress"):
        ask(sdk, previous_response_id=abandoned(0))


def test_an_api_that_is_stopped_fails_what_it_answers(settings, database, tiny_model):
    from fastapi.testclient import TestClient

    app = TestClient(create_app(settings), base_url="http://localhost")
    with app as other:
        made = other.post("/v1/responses", json=GREEDY | {"input": QUESTION, **ENDLESS}).json()
    with database.reading() as session:
        row = ResponseRepository(session).get(made["id"])
    assert row.status in FINAL
    assert row.status != "failed" or row.body["error"]["message"] == STOPPED


def test_a_conversation_gathers_what_is_asked_and_answered(sdk, tiny_model):
    begun = sdk.conversations.create(metadata={"a": "b"}, items=[{"role": "system", "content": "Be short."}])
    assert begun.metadata == {"a": "b"}
    first = ask(sdk, conversation=begun.id)
    assert first.conversation.id == begun.id
    second = list(ask(sdk, "And you?", conversation=begun.id, stream=True))[-1].response
    expected = [{"role": "system", "content": "Be short."}, *turns(first, second)[:-1]]
    assert second.output_text == chat(sdk, expected[:-1])
    items = list(sdk.conversations.items.list(begun.id, order="asc", limit=2))
    assert [(item.role, item.content[0].text) for item in items] == [(one["role"], one["content"]) for one in expected]
    third = wait_for(sdk, ask(sdk, "And they?", conversation=begun.id, background=True))
    assert third.output_text == chat(sdk, [expected[0], *turns(first, second)])
    assert next(iter(sdk.conversations.items.list(begun.id))).id == third.output[-1].id


def test_the_tokens_of_a_prompt_are_counted_before_it_is_answered(sdk, tiny_model):
    for asked in ({}, {"instructions": "Be short."}, {"previous_response_id": ask(sdk).id}):
        counted = sdk.responses.input_tokens.count(model="tiny-llama", input=QUESTION, **asked)
        assert counted.object == "response.input_tokens"
        assert counted.input_tokens == ask(sdk, **asked).usage.input_tokens


def test_conversations_are_read_changed_and_deleted(sdk, tiny_model):
    begun = sdk.conversations.create()
    assert begun.metadata == {}
    assert sdk.conversations.items.list(begun.id).data == []
    added = sdk.conversations.items.create(begun.id, items=[{"role": "user", "content": "a"}])
    (item,) = added.data
    assert sdk.conversations.items.retrieve(item.id, conversation_id=begun.id).to_dict() == item.to_dict()
    assert sdk.conversations.update(begun.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert sdk.conversations.retrieve(begun.id).metadata == {"c": "d"}
    assert sdk.conversations.items.delete(item.id, conversation_id=begun.id).id == begun.id
    with pytest.raises(openai.NotFoundError):
        sdk.conversations.items.retrieve(item.id, conversation_id=begun.id)
    assert sdk.conversations.delete(begun.id).deleted
    for call in (sdk.conversations.retrieve, sdk.conversations.delete, sdk.conversations.items.list):
        with pytest.raises(openai.NotFoundError, match=begun.id):
            call(begun.id)
    with pytest.raises(openai.NotFoundError, match=begun.id):
        ask(sdk, conversation=begun.id)


def test_arguments_that_are_no_object_are_refused(sdk, tiny_model):
    given = [
        {"role": "user", "content": "Weather?"},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "[]"},
    ]
    with pytest.raises(openai.BadRequestError, match=r"arguments is '\[\]'"):
        ask(sdk, given)


def test_keys_see_their_own(settings, tiny_model):
    from fastapi.testclient import TestClient

    made = {name: new_key(name, scope) for name, scope in (("one", Scope.READ), ("two", Scope.ADMIN))}
    keyed = settings.model_copy(update={"api_keys": ",".join(str(configured) for _, configured in made.values())})
    with TestClient(create_app(keyed), base_url="http://localhost") as app:
        bearer = {name: {"Authorization": f"Bearer {key}"} for name, (key, _) in made.items()}
        body = GREEDY | {"input": QUESTION}
        answer = app.post("/v1/responses", json=body, headers=bearer["one"]).json()
        begun = app.post("/v1/conversations", json={}, headers=bearer["one"]).json()
        for path in (f"/v1/responses/{answer['id']}", f"/v1/conversations/{begun['id']}"):
            assert app.get(path, headers=bearer["two"]).status_code == 404
            assert app.delete(path, headers=bearer["two"]).status_code == 404
            assert app.get(path, headers=bearer["one"]).status_code == 200
        chained = body | {"previous_response_id": answer["id"]}
        assert app.post("/v1/responses", json=chained, headers=bearer["two"]).status_code == 400
        assert app.post("/v1/responses", json=chained, headers=bearer["one"]).status_code == 200
        reference = body | {"input": [{"type": "item_reference", "id": answer["output"][0]["id"]}]}
        assert app.post("/v1/responses", json=reference, headers=bearer["two"]).status_code == 404
        assert app.delete(f"/v1/responses/{answer['id']}", headers=bearer["one"]).status_code == 200


def test_a_client_that_hangs_up_leaves_the_background_alone(client, sdk, tiny_model):
    body = GREEDY | {"input": QUESTION, "background": True, "stream": True}
    with client.stream("POST", "/v1/responses", json=body) as response:
        line = next(line for line in response.iter_lines() if line.startswith("data: "))
    uid = json.loads(line.removeprefix("data: "))["response"]["id"]
    assert wait_for(sdk, sdk.responses.retrieve(uid)).output_text == ask(sdk).output_text
    assert httpx.codes.is_success(response.status_code)
