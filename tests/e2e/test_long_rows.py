"""Jobs on rows that are longer than they may read at once, from the upload to what was trained."""

import json


def upload(platform, content: bytes, name: str, **fields) -> dict:
    response = platform.http.post("/datasets", files={"file": (name, content)}, data=fields)
    assert response.status_code == 201, response.text
    return response.json()


def chat(rounds: int, **more) -> dict:
    turns = []
    for number in range(rounds):
        turns += [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": f"a{number}"} | more]
    return {"messages": turns}


def test_long_rows_are_split_or_end_their_job_by_number(platform, tiny_model):
    rows = [*(chat(1 + number % 2, weight=0.5) for number in range(30)), chat(20)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    dataset = upload(platform, content, "chats.jsonl", model_id=str(tiny_model), held_out_fraction="0.1")
    # Its report knows nothing of another model's tokens.
    other = upload(platform, content, "others.jsonl", held_out_fraction="0.11")
    settings = {"model_id": tiny_model, "max_steps": 4, "max_seq_length": 128, "lora_r": 2, "auto_evaluate": False}
    split = platform.train(dataset_id=dataset["id"], cut_rows="split", **settings)
    refused = platform.train(dataset_id=other["id"], cut_rows="error", **settings)
    job = platform.wait_for_job(split, "COMPLETED")
    assert "They are read as windows of at most max_seq_length tokens" in job["logs"]
    assert ", 0 cut at max_seq_length" in job["logs"]
    job = platform.wait_for_job(refused, "FAILED")
    assert "longer than max_seq_length=128 tokens" in job["error"]
    assert f"row 31 has {dataset['report']['length_max']}" in job["error"]


def test_one_long_document_is_trained_on_in_windows(platform, tiny_model):
    text = "".join(f"It was line {number} of a poem\nthat goes on and on,\n" for number in range(300)).encode()
    dataset = upload(platform, text, "poem.txt", model_id=str(tiny_model))
    assert dataset["report"]["shape"] == "text: one document"
    job_id = platform.train(
        model_id=tiny_model, dataset_id=dataset["id"], max_steps=4, max_seq_length=128, lora_r=2, auto_evaluate=False
    )
    job = platform.wait_for_job(job_id, "COMPLETED")
    assert f"{dataset['report']['rows']} rows" not in job["logs"]  # some are held out
    assert "They are read as windows of at most max_seq_length tokens" in job["logs"]
