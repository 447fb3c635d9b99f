"""lm-eval's numbers for our loaded models are those of plain transformers, computed here a second time."""

import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tasks.harness.errors import BenchmarkError
from tasks.harness.measuring import Scores, measure
from tasks.harness.task_files import load_tasks
from tasks.models.loading import attach_adapter, load_base_model, load_tokenizer
from tests.tasks.harness.task_folder import ANSWER_TASK, CHOICE_ROWS, CHOICE_TASK, write_task

CPU = torch.device("cpu")
SETTINGS = {"batch_size": 2, "limit": None, "num_fewshot": None, "seed": 7, "apply_chat_template": False}


@pytest.fixture
def tokenizer(tiny_llama_dir):
    return load_tokenizer(tiny_llama_dir)


@pytest.fixture
def base(tiny_llama_dir):
    return load_base_model(tiny_llama_dir, torch.float32, CPU)


@pytest.fixture
def tuned(tiny_llama_dir, tmp_path):
    """The same model with an adapter that changes what it says."""
    torch.manual_seed(1)
    fresh = get_peft_model(
        load_base_model(tiny_llama_dir, torch.float32, CPU),
        LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"]),
    )
    for name, weight in fresh.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    fresh.save_pretrained(tmp_path / "adapter")
    return attach_adapter(load_base_model(tiny_llama_dir, torch.float32, CPU), tmp_path / "adapter")


def measured(folder, model, tokenizer, name, **changes) -> Scores:
    return measure(model, tokenizer, load_tasks(folder, [name], cache_dir=folder / "cache"), **{**SETTINGS, **changes})


@torch.no_grad()
def log_likelihood(model, tokenizer, context: str, continuation: str) -> float:
    before = tokenizer(context, add_special_tokens=False).input_ids
    tokens = tokenizer(context + continuation, add_special_tokens=False).input_ids
    assert tokens[: len(before)] == before
    log_probabilities = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return sum(float(log_probabilities[at - 1, tokens[at]]) for at in range(len(before), len(tokens)))


@torch.no_grad()
def greedy_answer(model, tokenizer, prompt: str, count: int) -> str:
    tokens = tokenizer(prompt, add_special_tokens=False).input_ids
    start = len(tokens)
    while len(tokens) < start + count:
        following = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
        if following == tokenizer.eos_token_id:
            break
        tokens.append(following)
    return tokenizer.decode(tokens[start:], skip_special_tokens=True).split("\n")[0]


def choices_by_likelihood(model, tokenizer) -> list[list[float]]:
    """Return for each row the log-likelihood of each choice."""
    return [
        [log_likelihood(model, tokenizer, f"Question: {row['question']}\nAnswer:", f" {c}") for c in row["choices"]]
        for row in CHOICE_ROWS
    ]


@pytest.mark.parametrize("which", ["base", "tuned"])
def test_accuracy_is_that_of_our_own_log_likelihoods(tmp_path, request, tokenizer, which):
    model = request.getfixturevalue(which)
    write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS)
    scores = measured(tmp_path, model, tokenizer, "which")

    expected = choices_by_likelihood(model, tokenizer)
    given = [[response[0][0] for response in sample["resps"]] for sample in scores.samples["which"]]
    for ours, theirs in zip(expected, given, strict=True):
        assert [float(value) for value in theirs] == pytest.approx(ours, rel=1e-4)

    hits, normed = [], []
    for row, likelihoods in zip(CHOICE_ROWS, expected, strict=True):
        lengths = [len(choice) for choice in row["choices"]]
        shares = [value / length for value, length in zip(likelihoods, lengths, strict=True)]
        hits.append(likelihoods.index(max(likelihoods)) == row["gold"])
        normed.append(shares.index(max(shares)) == row["gold"])
    count = len(hits)
    metrics = scores.metrics()
    for name, values in (("acc", hits), ("acc_norm", normed)):
        mean = sum(values) / count
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
        assert metrics[f"which/{name}"] == pytest.approx(mean)
        assert metrics[f"which/{name}_stderr"] == pytest.approx(spread / math.sqrt(count))


def test_the_adapter_counts(tmp_path, base, tuned, tokenizer):
    write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS)
    plain, changed = (measured(tmp_path, model, tokenizer, "which") for model in (base, tuned))
    assert [s["resps"] for s in plain.samples["which"]] != [s["resps"] for s in changed.samples["which"]]


def test_generated_answers_are_those_of_greedy_decoding(tmp_path, tuned, tokenizer):
    questions = [row["question"] for row in CHOICE_ROWS]
    answers = [greedy_answer(tuned, tokenizer, f"Question: {question}\nAnswer:", 12) for question in questions]
    right = {0, 2, 3}
    rows = [
        {"question": question, "answer": answer if at in right else f"not {answer}"}
        for at, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]
    write_task(tmp_path, ANSWER_TASK, rows)
    scores = measured(tmp_path, tuned, tokenizer, "sums")
    assert [sample["resps"][0][0] for sample in scores.samples["sums"]] == answers
    assert scores.metrics()["sums/exact_match"] == pytest.approx(len(right) / len(rows))


def test_a_filter_is_part_of_the_metrics_name(tmp_path, base, tokenizer):
    filters = [
        {"name": "strict", "filter": [{"function": "regex", "regex_pattern": "#### (.*)"}, {"function": "take_first"}]},
        {"name": "none", "filter": [{"function": "take_first"}]},
    ]
    write_task(tmp_path, ANSWER_TASK, [{"question": "1+1", "answer": "[invalid]"}] * 2, filter_list=filters)
    metrics = measured(tmp_path, base, tokenizer, "sums").metrics()
    assert metrics == {
        "sums/strict/exact_match": 1,
        "sums/strict/exact_match_stderr": 0,
        "sums/exact_match": 0,
        "sums/exact_match_stderr": 0,
    }


def test_limit_and_solved_examples(tmp_path, base, tokenizer):
    write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS)
    scores = measured(tmp_path, base, tokenizer, "which", limit=2, num_fewshot=2)
    samples = scores.samples["which"]
    assert [sample["doc"]["question"] for sample in samples] == [row["question"] for row in CHOICE_ROWS[:2]]
    assert all(sample["arguments"][0][0].count("Question:") == 3 for sample in samples)
    again = measured(tmp_path, base, tokenizer, "which", limit=2, num_fewshot=2).samples["which"]
    assert [sample["arguments"] for sample in again] == [sample["arguments"] for sample in samples]
    other = measured(tmp_path, base, tokenizer, "which", limit=2, num_fewshot=2, seed=8).samples["which"]
    assert [sample["arguments"] for sample in other] != [sample["arguments"] for sample in samples]


def test_one_row_has_no_standard_error(tmp_path, base, tokenizer):
    write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS)
    assert set(measured(tmp_path, base, tokenizer, "which", limit=1).metrics()) == {"which/acc", "which/acc_norm"}


def test_a_resampled_standard_error_forks_no_process(tmp_path, base, tokenizer, monkeypatch):
    monkeypatch.delenv("DISABLE_MULTIPROC", raising=False)
    write_task(
        tmp_path, ANSWER_TASK, [{"question": "1+1", "answer": "two and more"}] * 3, metric_list=[{"metric": "chrf"}]
    )
    monkeypatch.setattr("multiprocessing.Pool", None)
    metrics = measured(tmp_path, base, tokenizer, "sums").metrics()
    assert set(metrics) == {"sums/chrf", "sums/chrf_stderr"}


def test_the_scores_files_read_as_json(tmp_path, base, tokenizer):
    write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS, task="a/b")
    scores = measured(tmp_path, base, tokenizer, "a/b")
    scores.write(tmp_path / "scores")
    samples = json.loads((tmp_path / "scores/samples/a_b.json").read_text())
    assert [sample["doc"] for sample in samples] == CHOICE_ROWS
    assert json.loads((tmp_path / "scores/results.json").read_text())["n-samples"]["a/b"]["effective"] == 5
    assert set(scores.metrics()) == {"a_b/acc", "a_b/acc_stderr", "a_b/acc_norm", "a_b/acc_norm_stderr"}


def test_code_that_the_model_writes_is_not_run(tmp_path, base, tokenizer):
    write_task(tmp_path, ANSWER_TASK, [{"question": "1+1", "answer": "2"}], unsafe_code=True)
    with pytest.raises(BenchmarkError, match="sums runs code that the model writes"):
        measured(tmp_path, base, tokenizer, "sums")


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


@pytest.mark.parametrize("asked", [None, True])
def test_a_chat_model_is_asked_in_its_template_with_solved_examples_as_turns(tmp_path, base, tokenizer, asked):
    tokenizer.chat_template = TEMPLATE
    write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS)
    scores = measured(tmp_path, base, tokenizer, "which", num_fewshot=1, apply_chat_template=asked)
    assert scores.results["config"]["apply_chat_template"] is True
    for sample in scores.samples["which"]:
        prompt = sample["arguments"][0][0]
        assert prompt.startswith("<user>Question:")
        assert prompt.count("<user>") == 2
        assert prompt.count("<assistant>") == 1
        assert prompt.endswith("<answer>")


def test_without_a_template_or_where_it_is_not_wanted_prompts_are_plain(tmp_path, base, tokenizer):
    write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS)
    tokenizer.chat_template = None
    plain = measured(tmp_path, base, tokenizer, "which", apply_chat_template=None)
    assert plain.samples["which"][0]["arguments"][0][0] == f"Question: {CHOICE_ROWS[0]['question']}\nAnswer:"
    with pytest.raises(BenchmarkError, match="has no chat template"):
        measured(tmp_path, base, tokenizer, "which", apply_chat_template=True)
    tokenizer.chat_template = TEMPLATE
    unwanted = measured(tmp_path, base, tokenizer, "which", apply_chat_template=False)
    assert unwanted.metrics() == plain.metrics()
