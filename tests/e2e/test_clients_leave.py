"""A client that gives up: what it asked for and must be kept goes on, what nobody can get any more stops."""

import httpx
import pytest

TOKENS = 2000
ASKED = {"prompt": "Once upon a time", "max_new_tokens": TOKENS, "temperature": 0.0}


def test_an_evaluation_whose_client_leaves_is_kept_and_ends(platform, tiny_model):
    before = {one["id"] for one in platform.http.get("/evaluations").json()["evaluations"]}
    with pytest.raises(httpx.ReadTimeout):
        platform.http.post(f"/models/{tiny_model}/evaluate", json={"max_samples": 4}, timeout=0.5)

    def completed():
        fresh = [one for one in platform.http.get("/evaluations").json()["evaluations"] if one["id"] not in before]
        assert len(fresh) <= 1
        return fresh and fresh[0]["status"] == "COMPLETED" and fresh[0]

    evaluation = platform.wait_until(completed, 120, "the evaluation to end")
    assert platform.http.get(f"/evaluations/{evaluation['id']}").json()["perplexity"] > 0


def test_a_generation_whose_client_leaves_stops(platform):
    def engine(name):
        text = platform.http.get(platform.base_url.replace("/api", "/metrics")).text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(f"llm_engine_{name}")]
        return sum(float(value) for _, value in lines)

    starter = next(m["id"] for m in platform.http.get("/models").json()["models"] if "SmolLM2" in m["base_model"])
    platform.http.post(f"/models/{starter}/generate", json=ASKED | {"max_new_tokens": 1}).raise_for_status()
    before = engine("generated_tokens_total")
    for url in (f"/models/{starter}/generate", platform.base_url.replace("/api", "/v1/completions")):
        body = ASKED if url.startswith("/models") else {"model": str(starter), "prompt": "A", "max_tokens": TOKENS}
        with pytest.raises(httpx.ReadTimeout):
            platform.http.post(url, json=body, timeout=1.0)
    platform.wait_until(lambda: engine("running") == 0, 10, "the engine to be idle")
    assert 0 < engine("generated_tokens_total") - before < 2 * TOKENS
