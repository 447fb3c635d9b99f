"""lm-eval's own client of completions, over HTTP, gives what lm-eval gives for the same model in transformers."""

import threading
from itertools import chain

import lm_eval
import pytest
import torch
import uvicorn
from lm_eval.models.openai_completions import LocalCompletionsAPI
from transformers import AutoModelForCausalLM, AutoTokenizer

from api.app import create_app
from tasks.harness.measuring import measure
from tasks.harness.task_files import load_tasks
from tests.e2e.platform_process import free_ports
from tests.tasks.harness.task_folder import CHOICE_ROWS, CHOICE_TASK, write_task

CHOICES = ["Return the names", " été 東京 🙂", "100", "a number between 0 and 100"]


@pytest.fixture(scope="module")
def settings(settings):
    """Those of an API that has a port too."""
    (port,) = free_ports(1)
    return settings.model_copy(update={"api_port": port})


@pytest.fixture(scope="module")
def api_url(settings, client, tiny_model):
    """The API on a port, as lm-eval's client, which knows no other way, asks it."""
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=settings.api_port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.05)
    yield f"http://127.0.0.1:{settings.api_port}/v1/completions"
    server.should_exit = True
    thread.join(30)


def rows_with_the_models_own_answer(model, tokenizer):
    """Twenty rows, each with a choice that the model itself would write next."""
    rows = []
    for number in range(4):
        for row in CHOICE_ROWS:
            text = f"Question: {row['question']} {number}\nAnswer:"
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            output = model.generate(ids, max_new_tokens=3 + number, do_sample=False, pad_token_id=0)
            own = tokenizer.decode(output[0, ids.shape[1] :])
            choices = [*(f" {choice}" for choice in row["choices"]), CHOICES[number], own]
            rows.append({"question": f"{row['question']} {number}", "choices": choices, "gold": number})
    return rows


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_task_of_choices_has_the_numbers_of_lm_evals_hf_model(api_url, tiny_llama_dir, tmp_path, batch_size):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    rows = rows_with_the_models_own_answer(model, tokenizer)
    write_task(tmp_path, CHOICE_TASK, rows, target_delimiter="")
    tasks = load_tasks(tmp_path, ["which"], cache_dir=tmp_path / "cache")
    expected = measure(
        model, tokenizer, tasks, batch_size=4, limit=None, num_fewshot=None, seed=7, apply_chat_template=False
    )
    remote = LocalCompletionsAPI(
        base_url=api_url,
        model="tiny-llama",
        tokenizer=str(tiny_llama_dir),
        tokenizer_backend="huggingface",
        max_length=256,
        batch_size=batch_size,
        num_concurrent=1,
    )
    given = lm_eval.evaluate(
        lm=remote,
        task_dict=load_tasks(tmp_path, ["which"], cache_dir=tmp_path / "cache"),
        bootstrap_iters=0,
        log_samples=True,
    )
    for metric in ("acc,none", "acc_norm,none"):
        assert given["results"]["which"][metric] == expected.results["results"]["which"][metric]
    answers = [[one["resps"] for one in found] for found in (given["samples"]["which"], expected.samples["which"])]
    pairs = list(zip(*(list(chain.from_iterable(chain.from_iterable(each))) for each in answers), strict=True))
    assert len(pairs) == sum(len(row["choices"]) for row in rows)
    for (ours, ours_greedy), (theirs, theirs_greedy) in pairs:
        assert float(ours) == pytest.approx(float(theirs), abs=1e-4)
        assert str(ours_greedy) == str(theirs_greedy)
    assert {str(greedy) for _, (_, greedy) in pairs} == {"True", "False"}
