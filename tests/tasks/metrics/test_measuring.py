"""An evaluation computes what it is asked for, from a real model, and leaves out the work for the rest."""

from dataclasses import dataclass, field

import pytest
from transformers import PreTrainedModel

from configs.recipe import METRICS, EvaluationSettings
from configs.settings import Settings
from registry.tables import Model
from tasks.data.examples import Example
from tasks.data.prepared import prepare
from tasks.data.rows import ListedExamples
from tasks.metrics.measuring import ChosenRows, Measured, measure_rows
from tasks.metrics.sample_file import read_samples, write_samples
from tasks.models.sources import ModelSource, NamedDataset

ROWS, NEW_TOKENS = 20, 5
CHOSEN = ChosenRows(ROWS, max_seq_length=128)
TEXT_METRICS = [name for name in METRICS if name != "perplexity"]


@dataclass
class Work:
    """What the model was made to do: its forward passes over whole rows, and those over a text it is generating."""

    rows_measured: int = 0
    rows_generated: int = 0
    progress: list[int] = field(default_factory=list)


class Watched:
    """A tiny model on twenty held-out rows, which counts what it does."""

    def __init__(self, tiny_models_dir, folder) -> None:
        settings = Settings(data_dir=folder, local_models_dir=tiny_models_dir, allow_hub=False, device="cpu")
        self.source = ModelSource(settings, Model(name="Tiny", base_model="tiny-llama"))
        examples = [Example.question(f"What is {number}?", "one two " * (number % 4 + 1)) for number in range(60)]
        rows = ListedExamples(examples)
        prepared = prepare(rows, self.source.tokenizer, 128, folder / "tokens", 0.5)
        self.dataset = NamedDataset("numbers", "made here", prepared)
        self.model: PreTrainedModel = self.source.load()
        self.model.register_forward_hook(self._count, with_kwargs=True)
        self.work = Work()

    def _count(self, _model, _args, inputs, _output) -> None:
        # Generation keeps what it has read for the next token; a likelihood has no next token.
        rows = len(inputs["input_ids"])
        if inputs["use_cache"]:
            self.work.rows_generated += rows
        else:
            self.work.rows_measured += rows

    def measure(self, metrics) -> tuple[Measured, Work]:
        self.work = Work()
        settings = EvaluationSettings(max_new_tokens=NEW_TOKENS, metrics=metrics)
        measured = measure_rows(
            self.model, self.source, self.dataset, CHOSEN, settings, on_progress=self.work.progress.append
        )
        return measured, self.work


@pytest.fixture(scope="module")
def watched(tiny_models_dir, tmp_path_factory):
    return Watched(tiny_models_dir, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(watched):
    return watched.measure(None)


def test_all_five_are_computed_when_nothing_is_chosen(whole):
    measured, work = whole
    assert set(measured.metrics) == set(measured.intervals) == set(METRICS)
    assert work.rows_measured == ROWS
    assert work.rows_generated > ROWS
    assert work.progress == [16, 20]
    assert list(measured.table()) == ["prompt", "response", "reference", *METRICS]


def test_perplexity_alone_generates_nothing(watched, whole, tmp_path):
    measured, work = watched.measure(["perplexity"])
    assert (work.rows_measured, work.rows_generated) == (ROWS, 0)
    assert measured.metrics == {"perplexity": whole[0].metrics["perplexity"]}
    assert measured.intervals == {"perplexity": whole[0].intervals["perplexity"]}
    assert set(measured.tracked()) == {"perplexity", "perplexity_ci95_low", "perplexity_ci95_high"}
    assert list(measured.table()) == ["prompt", "reference", "perplexity"]
    assert measured.table()["perplexity"] == whole[0].table()["perplexity"]
    write_samples(measured.evaluated_samples(), tmp_path / "samples.jsonl")
    samples = list(read_samples(tmp_path / "samples.jsonl"))
    assert samples == list(measured.evaluated_samples())
    assert {sample.response for sample in samples} == {None}
    assert [sample.prompt for sample in samples] == whole[0].samples.prompts


def test_progress_of_perplexity_alone_is_that_of_the_likelihoods(watched):
    _, work = watched.measure(["perplexity"])
    assert work.progress == sorted(set(work.progress))
    assert work.progress[-1] == ROWS


@pytest.mark.parametrize(
    "metrics", [["rouge_score"], ["avg_response_length", "bleu_score"], TEXT_METRICS], ids=" ".join
)
def test_without_perplexity_no_likelihood_is_measured(watched, whole, metrics):
    measured, work = watched.measure(metrics)
    assert work.rows_measured == 0
    assert work.rows_generated == whole[1].rows_generated
    assert work.progress == [16, 20]
    assert measured.metrics == {name: whole[0].metrics[name] for name in metrics}
    assert set(measured.table()) == {"prompt", "response", "reference", *metrics}
    assert measured.samples == whole[0].samples
