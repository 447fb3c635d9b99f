"""Data sets through the API: uploaded in every format, checked row by row, shown and deleted."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PAIRS = [(f"What is {number} + {number}?", f"It is {2 * number}.\nA café costs that.") for number in range(30)]


def as_jsonl(pairs) -> bytes:
    return "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs).encode()


def as_chat(pairs) -> bytes:
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs]
    return json.dumps(rows).encode()


def as_csv(pairs) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("instruction", "output"), *pairs])
    return text.getvalue().encode()


def as_parquet(pairs) -> bytes:
    buffer = io.BytesIO()
    columns = {"prompt": [q for q, _ in pairs], "completion": [a for _, a in pairs]}
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def upload(client, content: bytes, key=None, file_name="rows.data", **fields):
    headers = {"Idempotency-Key": key} if key else {}
    data = {field: str(value) for field, value in fields.items()}
    return client.post("/api/datasets", files={"file": (file_name, content)}, data=data, headers=headers)


@pytest.fixture(scope="module")
def uploaded(client, tiny_model):
    response = upload(client, as_jsonl(PAIRS), file_name="sums.jsonl", model_id=tiny_model["id"])
    assert response.status_code == 201, response.text
    return response.json()


@pytest.fixture
def nothing_left(settings):
    before = set(settings.datasets_dir.rglob("*"))
    yield
    assert set(settings.datasets_dir.rglob("*")) - before <= {settings.datasets_dir / "uploads"}


def test_an_upload_is_checked_stored_and_reported(client, uploaded):
    assert (uploaded["name"], uploaded["status"], uploaded["rows"], uploaded["source"]) == (
        "sums.jsonl",
        "READY",
        30,
        "upload",
    )
    report = uploaded["report"]
    assert (report["file_format"], report["shape"], report["error_count"]) == ("jsonl", "question/answer", 0)
    assert report["rows"] == report["usable_rows"] == 30
    assert 0 < report["answer_tokens"] < report["tokens"]
    assert report["length_p50"] <= report["length_p95"] <= report["length_max"]
    detail = client.get(f"/api/datasets/{uploaded['id']}").json()
    assert detail == {key: value for key, value in uploaded.items() if key != "message"}
    listed = client.get("/api/datasets").json()["datasets"]
    assert listed[0]["id"] == 1
    assert uploaded["id"] in [entry["id"] for entry in listed]


@pytest.mark.parametrize("write", [as_chat, as_parquet])
def test_every_format_and_shape_gives_the_same_rows(client, tiny_model, uploaded, write):
    other = upload(client, write(PAIRS), model_id=tiny_model["id"])
    assert other.status_code == 201, other.text
    assert other.json()["content_hash"] == uploaded["content_hash"]


def test_the_preview_shows_what_is_trained_on_token_by_token(client, tiny_model, uploaded):
    path = f"/api/datasets/{uploaded['id']}/preview"
    plain = client.get(path, params={"rows": 3}).json()["rows"]
    assert [row["number"] for row in plain] == [1, 2, 3]
    assert plain[0]["messages"][1]["content"] == PAIRS[0][1]
    assert plain[0]["tokens"] is None
    (row,) = client.get(path, params={"rows": 1, "rendered": True, "model_id": tiny_model["id"]}).json()["rows"]
    assert row["rendered"].startswith("<|im_start|>user\nWhat is 0 + 0?<|im_end|>")
    learned = "".join(token["text"] for token in row["tokens"] if token["learned"])
    unlearned = "".join(token["text"] for token in row["tokens"] if not token["learned"])
    assert learned.startswith("It is 0.")
    assert learned.endswith("<|im_end|>")
    assert "It is 0." not in unlearned
    assert row["cut"] is False
    sides = [row["side"] for row in client.get(path, params={"rows": 30}).json()["rows"]]
    assert 0 < sides.count("held_out") < 15


def test_the_built_in_data_set_can_be_looked_at_too(client, tiny_model):
    rows = client.get("/api/datasets/1/preview", params={"rows": 2, "model_id": tiny_model["id"]}).json()["rows"]
    assert rows[0]["messages"][0]["content"].startswith("What does the Python function")


def test_rows_in_error_are_named_and_the_data_set_is_refused(client, tiny_model, nothing_left):
    lines = as_jsonl(PAIRS).splitlines()
    lines[4] = b'{"question": "no answer"}'
    lines[7] = b"{broken"
    response = upload(client, b"\n".join(lines), model_id=tiny_model["id"])
    assert response.status_code == 422
    body = response.json()
    assert body["code"] == "invalid_dataset"
    assert "2 of 30 rows" in body["error"]
    assert [error["number"] for error in body["details"]["report"]["errors"]] == [5, 8]
    assert "answer" in body["details"]["report"]["errors"][0]["message"]


def test_rows_in_error_can_be_left_out_and_are_counted(client, tiny_model):
    content = as_jsonl(PAIRS[:20]) + b"{broken\n"
    body = upload(client, content, model_id=tiny_model["id"], allow_errors=True).json()
    assert (body["rows"], body["report"]["error_count"]) == (20, 1)
    assert any("1 of 21 rows can't be used" in warning for warning in body["report"]["warnings"])


def test_a_file_name_that_says_another_format_is_kept_and_warned_about(client, tiny_model):
    body = upload(client, as_jsonl(PAIRS[:20]), file_name="sums.csv", model_id=tiny_model["id"], name="sums").json()
    assert (body["name"], body["settings"]["file_name"]) == ("sums", "sums.csv")
    assert "The file's name ends in .csv, but it was read as JSON lines." in body["report"]["warnings"]


def test_columns_can_be_mapped(client, tiny_model):
    content = "\n".join(json.dumps({"Frage": q, "Antwort": a}) for q, a in PAIRS[:5]).encode()
    refused = upload(client, content, model_id=tiny_model["id"])
    assert refused.status_code == 422
    assert "Frage" in refused.json()["error"]
    mapping = json.dumps({"question": "Frage", "answer": "Antwort"})
    accepted = upload(client, content, model_id=tiny_model["id"], columns=mapping)
    assert accepted.status_code == 201, accepted.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b'{"text": "caf\xe9"}\n', "UTF-8"),
        (b"[" * 100_000, "more than 64 deep"),
    ],
    ids=["gzip", "encoding", "nesting"],
)
def test_what_is_no_data_set_is_refused_by_name_and_leaves_nothing(client, tiny_model, nothing_left, content, said):
    response = upload(client, content, model_id=tiny_model["id"])
    assert response.status_code == 422, response.text
    assert said.lower() in response.json()["error"].lower()


def test_an_upload_beyond_the_limit_is_refused(client, settings, nothing_left):
    response = upload(client, bytes(settings.max_upload_bytes + 1))
    assert response.status_code == 413
    assert str(settings.max_upload_bytes) in response.json()["error"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"held_out_fraction": 1.5}, "held_out_fraction"),
        ({"held_out_fracton": 0.2}, "held_out_fracton"),
        ({"columns": "question"}, "columns"),
        ({"model_id": 10_000}, "model"),
    ],
)
def test_wrong_fields_are_named(client, nothing_left, fields, said):
    response = upload(client, as_jsonl(PAIRS), **fields)
    assert response.status_code in (404, 422)
    assert said in response.json()["error"]


def test_a_form_without_a_file_says_so(client):
    response = client.post("/api/datasets", data={"name": "x"}, files={"other": ("a", b"b")})
    assert response.status_code == 422
    assert "file" in response.json()["error"]


def test_a_repeated_upload_is_the_same_data_set(client, tiny_model):
    first = upload(client, as_jsonl(PAIRS[:9]), key="once", model_id=tiny_model["id"])
    again = upload(client, as_jsonl(PAIRS[:9]), key="once", model_id=tiny_model["id"])
    assert first.json()["id"] == again.json()["id"]
    other = upload(client, as_jsonl(PAIRS[:8]), key="once", model_id=tiny_model["id"])
    assert other.status_code == 409


def test_a_local_file_is_found_by_its_name(client, settings, tiny_model):
    settings.local_datasets_dir.mkdir(parents=True, exist_ok=True)
    (settings.local_datasets_dir / "sums.csv").write_bytes(as_csv(PAIRS[:6]))
    body = {"dataset": "sums", "model_id": tiny_model["id"]}
    created = client.post("/api/datasets", json=body)
    assert created.status_code == 201, created.text
    assert (created.json()["source"], created.json()["rows"]) == ("sums", 6)
    missing = client.post("/api/datasets", json={"dataset": "nobody/nothing"})
    assert missing.status_code == 422
    assert "hub is turned off" in missing.json()["error"]


def test_an_own_held_out_set_keeps_its_rows_from_training(client, tiny_model, uploaded):
    own = upload(client, as_jsonl(PAIRS[:3]), model_id=tiny_model["id"]).json()
    created = upload(client, as_jsonl(PAIRS), model_id=tiny_model["id"], held_out_dataset_id=own["id"])
    assert created.status_code == 201, created.text
    rows = client.get(f"/api/datasets/{created.json()['id']}/preview", params={"rows": 5}).json()["rows"]
    assert [row["side"] for row in rows] == ["held_out"] * 3 + ["train"] * 2
    in_use = client.delete(f"/api/datasets/{own['id']}")
    assert in_use.status_code == 409
    assert f"data set {created.json()['id']}" in in_use.json()["error"]


def test_a_deleted_data_set_is_gone_from_the_disk_once_nobody_has_the_same_rows(client, settings, tiny_model):
    ids = [upload(client, as_jsonl(PAIRS[:7]), model_id=tiny_model["id"]).json()["id"] for _ in range(2)]
    folder = settings.datasets_dir / client.get(f"/api/datasets/{ids[0]}").json()["content_hash"]
    assert client.delete(f"/api/datasets/{ids[0]}").status_code == 200
    assert client.get(f"/api/datasets/{ids[0]}").status_code == 404
    assert folder.is_dir()
    assert client.delete(f"/api/datasets/{ids[1]}").status_code == 200
    assert not folder.exists()


def test_a_job_keeps_its_data_set(client, tiny_model, uploaded):
    body = {"model_id": tiny_model["id"], "job_name": "uses it", "dataset_id": uploaded["id"]}
    job = client.post("/api/training", json=body).json()
    refused = client.delete(f"/api/datasets/{uploaded['id']}")
    assert refused.status_code == 409
    assert f"training job {job['id']}" in refused.json()["error"]
    unknown = client.post("/api/training", json={**body, "dataset_id": 9999})
    assert unknown.status_code == 404
