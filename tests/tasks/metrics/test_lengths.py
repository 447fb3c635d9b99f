"""What fits into which length: rows, prompts and responses, from a real tokenizer and a real model."""

import pytest

from configs.recipe import EvaluationSettings
from configs.settings import Settings
from registry.tables import Model
from tasks.data.examples import Example
from tasks.data.prepared import prepare
from tasks.data.rows import ListedExamples
from tasks.metrics.conditions import Conditions, response_limit
from tasks.metrics.errors import MetricError
from tasks.metrics.measuring import ChosenRows, measure_rows, reference_lengths
from tasks.models.sources import ModelSource, NamedDataset

CONTEXT = 128


class LongAndShort:
    """Rows with prompts of about ten tokens and of about eighty, held out and prepared for a tiny GPT-2."""

    def __init__(self, tiny_models_dir, folder) -> None:
        settings = Settings(data_dir=folder, local_models_dir=tiny_models_dir, allow_hub=False, device="cpu")
        self.source = ModelSource(settings, Model(name="Tiny", base_model="tiny-gpt2"))
        questions = ["What is it? " * (10 if number % 3 == 0 else 1) + str(number) for number in range(40)]
        self.examples = ListedExamples([Example.question(question, "one two three") for question in questions])
        self.folder = folder

    def prepared(self, max_seq_length: int) -> NamedDataset:
        data = prepare(self.examples, self.source.tokenizer, max_seq_length, self.folder / "tokens", 0.5)
        return NamedDataset("long and short", "made here", data)

    def measure(self, max_seq_length: int, max_samples: int = 12, **settings):
        cut, whole = self.prepared(max_seq_length), self.prepared(CONTEXT)
        chosen = ChosenRows.first(whole.prepared, cut.prepared, max_samples, max_seq_length)
        return measure_rows(self.source.load(), self.source, cut, chosen, EvaluationSettings(**settings))


@pytest.fixture(scope="module")
def rows(tiny_models_dir, tmp_path_factory):
    return LongAndShort(tiny_models_dir, tmp_path_factory.mktemp("data"))


def test_a_row_whose_prompt_is_longer_than_the_length_is_left_out_and_no_other_takes_its_place(rows):
    whole, cut = (rows.measure(length, metrics=["perplexity"]) for length in (CONTEXT, 40))
    assert (whole.conditions.rows, whole.conditions.left_out_rows, whole.conditions.notes()) == (12, 0, [])
    short = [prompt for prompt in whole.samples.prompts if len(prompt) < 60]
    assert cut.samples.prompts == short
    assert 0 < len(short) < 12
    assert (cut.conditions.rows, cut.conditions.left_out_rows) == (len(short), 12 - len(short))
    (note,) = cut.conditions.notes()
    assert note.startswith(f"{12 - len(short)} of 12 rows were left out")


def test_a_prompt_that_leaves_no_room_for_a_response_is_left_out_whole(rows):
    measured = rows.measure(CONTEXT, max_new_tokens=60)
    assert all(len(prompt) < 60 for prompt in measured.samples.prompts)
    assert len(measured.scores) == measured.conditions.rows == 12 - measured.conditions.left_out_rows < 12
    assert measured.conditions.max_new_tokens == 60


def test_no_row_that_fits_is_an_error_with_the_numbers(rows):
    with pytest.raises(MetricError, match="none of the 12 rows has a prompt that fits into max_seq_length=128 and"):
        rows.measure(CONTEXT, max_new_tokens=127)


def test_responses_are_as_long_as_the_references_unless_a_length_is_named(rows):
    dataset = rows.prepared(CONTEXT)
    lengths = reference_lengths(rows.source, dataset, range(12))
    assert set(lengths) == {len(rows.source.tokenizer("one two three", add_special_tokens=False)["input_ids"])}
    measured = rows.measure(CONTEXT, metrics=["avg_response_length"])
    assert measured.conditions.max_new_tokens == response_limit(lengths, CONTEXT, CONTEXT) == 16


@pytest.mark.parametrize(
    ("lengths", "limit"),
    [([1], 16), ([*range(1, 101)], 95), ([20] * 19 + [500], 20), ([20] * 18 + [500] * 2, 500), ([5000], 1024)],
)
def test_the_limit_is_the_95th_percentile_within_bounds(lengths, limit):
    assert response_limit(lengths, max_seq_length=2048, context_length=2048) == limit
    assert response_limit(lengths, max_seq_length=64, context_length=2048) == min(limit, 64)
    assert response_limit(lengths, max_seq_length=256, context_length=256) == min(limit, 128)


def test_a_response_stopped_before_its_reference_ends_is_counted(rows):
    measured = rows.measure(CONTEXT, max_new_tokens=1, metrics=["rouge_score"])
    lengths = measured.samples.responses.lengths
    assert measured.conditions.stopped_responses == lengths.count(1) > 0
    assert any("stopped at max_new_tokens (1)" in note for note in measured.conditions.notes())
    assert Conditions(128, 64, 12, 0, 0).notes() == []
