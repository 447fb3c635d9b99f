import math
from dataclasses import dataclass

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tasks.metrics.errors import MetricError
from tasks.metrics.perplexity import POSITIONS_PER_CHUNK, NegativeLogLikelihood, negative_log_likelihood

# peft reads a property of transformers' models that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@dataclass(frozen=True)
class Row:
    input_ids: list[int]
    labels: list[int]
    weights: None = None


def random_rows(count: int = 23) -> list[Row]:
    """Instruction rows, whole-text rows and a row without a label, of lengths 2 to 90."""
    generator = torch.Generator().manual_seed(3)
    rows = [Row([5, 6, 7], [-100, -100, -100])]
    for number in range(count):
        length = int(torch.randint(2, 90, (1,), generator=generator))
        ids = torch.randint(0, 300, (length,), generator=generator).tolist()
        masked = 0 if number % 3 == 0 else length // 2
        rows.append(Row(ids, [-100] * masked + ids[masked:]))
    return rows


def row_by_row(model, rows: list[Row]) -> list[NegativeLogLikelihood]:
    """The definition, without batches, padding or masks."""
    of_rows = []
    model.eval()
    with torch.no_grad():
        for row in rows:
            nats, tokens = 0.0, 0
            log_probabilities = torch.log_softmax(model(torch.tensor([row.input_ids])).logits[0].double(), dim=-1)
            for position, label in enumerate(row.labels):
                if position > 0 and label != -100:
                    nats -= log_probabilities[position - 1, label].item()
                    tokens += 1
            of_rows.append(NegativeLogLikelihood(nats, tokens))
    return of_rows


def assert_equal(ours: list[NegativeLogLikelihood], theirs: list[NegativeLogLikelihood], rel: float) -> None:
    assert [row.tokens for row in ours] == [row.tokens for row in theirs]
    assert [row.nats for row in ours] == pytest.approx([row.nats for row in theirs], rel=rel)


def total(of_rows: list[NegativeLogLikelihood]) -> float:
    return math.fsum(row.nats for row in of_rows)


def with_adapter(model):
    adapted = get_peft_model(
        model, LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return adapted


@pytest.fixture(params=["tiny-llama", "tiny-gpt2", "tiny-llama with adapter"])
def model(request, tiny_models_dir):
    name, _, adapter = request.param.partition(" ")
    plain = AutoModelForCausalLM.from_pretrained(tiny_models_dir / name)
    return with_adapter(plain) if adapter else plain


@pytest.mark.parametrize("max_batch_tokens", [1, 200, 4096])
def test_equals_a_loop_row_by_row(model, max_batch_tokens):
    rows = random_rows()
    model.train()
    of_rows = negative_log_likelihood(model, rows, pad_token_id=0, max_batch_tokens=max_batch_tokens)
    assert model.training
    expected = row_by_row(model, rows)
    assert_equal(of_rows, expected, rel=3e-6)
    assert total(of_rows) == pytest.approx(total(expected), rel=1e-6)


def test_progress_is_reported_after_each_batch(tiny_llama_dir):
    model, rows = AutoModelForCausalLM.from_pretrained(tiny_llama_dir), random_rows()
    told: list[int] = []
    # A row longer than this is a batch of its own.
    negative_log_likelihood(model, rows, 0, 1, on_measured=told.append)
    assert told == list(range(1, len(rows) + 1))
    told.clear()
    negative_log_likelihood(model, rows, 0, 200, on_measured=told.append)
    assert told == sorted(set(told))
    assert told[-1] == len(rows) > len(told) > 1


def test_the_adapter_counts(tiny_llama_dir):
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    before = negative_log_likelihood(plain, random_rows(), 0)
    after = negative_log_likelihood(with_adapter(plain), random_rows(), 0)
    assert abs(total(after) - total(before)) > 0.1


def test_same_rows_same_bits_and_padding_does_not_matter(model):
    first = negative_log_likelihood(model, random_rows(), 0, 500)
    assert negative_log_likelihood(model, random_rows(), 0, 500) == first
    assert_equal(negative_log_likelihood(model, random_rows(), 17, 500), first, rel=1e-6)


def test_transformers_own_loss_agrees(model):
    rows = random_rows()[1:]
    of_rows = negative_log_likelihood(model, rows, 0)
    model.eval()
    for row, nll in zip(rows, of_rows, strict=True):
        labels = [-100, *row.labels[1:]]
        assert nll.tokens == sum(label != -100 for label in labels) > 0
        loss = model(torch.tensor([row.input_ids]), labels=torch.tensor([labels])).loss.item()
        assert nll.nats / nll.tokens == pytest.approx(loss, rel=1e-5)


def test_many_labelled_positions_are_taken_in_chunks(tiny_llama_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    rows = [Row([number % 300 for number in range(start, start + 200)], list(range(200))) for start in range(8)]
    of_rows = negative_log_likelihood(model, rows, 0, max_batch_tokens=8 * 200)
    assert sum(row.tokens for row in of_rows) == 8 * 199 > 2 * POSITIONS_PER_CHUNK
    assert_equal(of_rows, row_by_row(model, rows), rel=1e-6)


def test_bfloat16_logits_are_normalised_in_float32(tiny_llama_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.bfloat16)
    rows = random_rows()
    # Rounding of the hidden states depends on the batch; that of the log-softmax must not add to it.
    of_rows = negative_log_likelihood(model, rows, 0, max_batch_tokens=1)
    assert total(of_rows) == pytest.approx(total(row_by_row(model, rows)), rel=1e-5)


@pytest.mark.parametrize("rows", [[], [Row([5, 6], [-100, -100])], [Row([5], [5])]])
def test_nothing_to_predict_is_an_error(tiny_gpt2_dir, rows):
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2_dir)
    with pytest.raises(MetricError, match="no row has a labelled token"):
        negative_log_likelihood(model, rows, 0)


def test_a_row_beyond_the_context_is_an_error_with_both_numbers(tiny_gpt2_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2_dir)
    with pytest.raises(MetricError, match=r"129 tokens, but the model's context holds 128"):
        negative_log_likelihood(model, [Row([1] * 129, [1] * 129)], 0)


def test_broken_weights_are_an_error_and_not_a_number(tiny_gpt2_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2_dir)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(MetricError, match="not finite"):
        negative_log_likelihood(model, random_rows(), 0)
