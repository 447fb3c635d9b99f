"""Rows longer than max_seq_length, and weights, as the API shows them before anything is trained."""

import json

import pytest

from tests.api.test_datasets import upload


def chat(rounds: int, words: int = 4, **more) -> dict:
    turns = []
    for number in range(rounds):
        turns.append({"role": "user", "content": f"Question {number}?"})
        turns.append({"role": "assistant", "content": f"a{number} " * words} | more)
    return {"messages": turns}


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def send(client, tiny_model):
    def run(rows, name, **fields):
        response = upload(client, lines(rows), file_name=f"{name}.jsonl", model_id=tiny_model["id"], **fields)
        return response.status_code, response.json()

    return run


ROWS = [*(chat(1, words) for words in range(1, 9)), chat(9), chat(1, 9)]


def test_long_rows_are_refused_by_number_and_length_where_that_is_asked_for(send):
    status, answer = send(ROWS, "refused", max_seq_length=128, cut_rows="error")
    assert status == 422
    (error,) = answer["details"]["report"]["errors"]
    assert error["number"] == 9
    assert error["message"].endswith("tokens, more than max_seq_length=128, and cut_rows is error")


def test_split_rows_are_counted_and_previewed_as_their_windows(client, send):
    status, split = send(ROWS, "split", max_seq_length=128, cut_rows="split")
    assert (status, split["report"]["cut_rows"], split["report"]["lost_rows"]) == (201, 0, 0)
    windows = split["report"]["windows"] - 9
    assert windows > 2
    rows = client.get(f"/api/datasets/{split['id']}/preview?rows=10&rendered=true").json()["rows"]
    assert [(row["cut"], len(row["windows"])) for row in rows] == [(False, 1)] * 8 + [(False, windows), (False, 1)]
    assert max(rows[8]["windows"]) <= 128
    status, cut = send(ROWS, "cut", max_seq_length=128)
    assert (status, cut["report"]["cut_rows"], cut["report"]["windows"]) == (201, 1, 10)
    rows = client.get(f"/api/datasets/{cut['id']}/preview?rows=10&rendered=true").json()["rows"]
    assert (rows[8]["cut"], rows[8]["windows"]) == (True, [128])


def test_job_that_refuses_long_rows_is_refused_where_the_report_knows_of_one(client, send, tiny_model):
    _, dataset = send(ROWS, "job", max_seq_length=128)
    job = {"model_id": tiny_model["id"], "job_name": "long", "dataset_id": dataset["id"], "max_seq_length": 128}
    refused = client.post("/api/training", json=job | {"cut_rows": "error"})
    assert refused.status_code == 422
    length = dataset["report"]["length_max"]
    assert f"row 9, its longest, has {length} tokens, more than max_seq_length 128" in refused.json()["error"]
    assert client.post("/api/training", json=job | {"cut_rows": "drop"}).status_code == 422
    for accepted in ({"cut_rows": "error", "max_seq_length": length}, {"cut_rows": "split"}):
        created = client.post("/api/training", json=job | accepted)
        assert created.status_code == 201, created.text
        shown = client.get(f"/api/training/{created.json()['id']}").json()
        assert shown["recipe"]["cut_rows"] == accepted["cut_rows"]


def test_texts_are_previewed_as_their_windows(client, send):
    _, dataset = send([{"text": "word " * n} for n in (3, 200, 300)], "texts", max_seq_length=64, cut_rows="error")
    rows = client.get(f"/api/datasets/{dataset['id']}/preview?rows=3&rendered=true").json()["rows"]
    for row in rows:
        assert not row["cut"]
        assert sum(row["windows"]) == len(row["tokens"])
    assert dataset["report"]["windows"] == sum(len(row["windows"]) for row in rows)


def test_weights_are_counted_and_previewed_token_by_token(client, send):
    rows = [chat(1, 2), chat(1, 3, weight=0.5), chat(1, 4) | {"loss_weight": 2}, chat(1, 5, weight=1)]
    _, dataset = send(rows, "weighted")
    assert dataset["report"]["weighted_rows"] == 2
    shown = client.get(f"/api/datasets/{dataset['id']}/preview?rows=4&rendered=true").json()["rows"]
    for row, weight in zip(shown, (1, 0.5, 2, 1), strict=True):
        assert {token["weight"] for token in row["tokens"]} == {0, weight}
        assert all(token["learned"] == (token["weight"] > 0) for token in row["tokens"])
    status, answer = send([*rows, chat(1, 2, weight=-1)], "negative")
    assert status == 422
    assert (
        "messages[1].weight is a number (-1); 0, or a number from 1e-06"
        in answer["details"]["report"]["errors"][0]["message"]
    )
