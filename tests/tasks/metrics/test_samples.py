import json
import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
import sacrebleu

from configs.recipe import METRICS, MetricName
from tasks.metrics.bootstrap import confidence_intervals
from tasks.metrics.errors import MetricError
from tasks.metrics.perplexity import NegativeLogLikelihood
from tasks.metrics.samples import SampleScores, corpus_metrics
from tasks.metrics.scoring import Responses, score_samples
from tests.tasks.metrics import definitions


def close(expected: float) -> object:
    return pytest.approx(expected, rel=1e-12, abs=1e-12)


class Evaluated:
    """Random texts and likelihoods beside their scores."""

    def __init__(self, seed: int, count: int = 40) -> None:
        rng = np.random.default_rng(seed)
        self.responses, self.references = definitions.random_texts(rng, count)
        self.lengths = rng.integers(0, 64, size=count).tolist()
        self.nlls = [NegativeLogLikelihood(float(rng.gamma(9, 3)), int(rng.integers(1, 30))) for _ in range(count)]
        self.ids = [f"row {row}" for row in range(count)]
        self.samples = self.scored_by(METRICS)

    def scored_by(self, metrics: Sequence[MetricName]) -> list[SampleScores]:
        """Scores of these metrics, computed from no more than what they need."""
        responses = Responses(self.responses, self.lengths) if set(metrics) - {"perplexity"} else None
        likelihoods = self.nlls if "perplexity" in metrics else None
        return score_samples(self.ids, self.references, responses, likelihoods, metrics)


@pytest.fixture(scope="module", params=[1, 2, 3])
def evaluated(request) -> Evaluated:
    return Evaluated(request.param)


def test_corpus_metrics_of_any_subset_follow_their_definitions(evaluated):
    rng = np.random.default_rng(0)
    for size in (40, 20, 7, 1, 1, 1):
        rows = rng.choice(40, size=size, replace=False).tolist()
        responses = [evaluated.responses[row] for row in rows]
        references = [evaluated.references[row] for row in rows]
        nats, tokens = (sum(getattr(evaluated.nlls[row], part) for row in rows) for part in ("nats", "tokens"))
        pairs = zip(responses, references, strict=True)
        assert corpus_metrics([evaluated.samples[row] for row in rows]) == {
            "perplexity": close(math.exp(nats / tokens)),
            "bleu_score": close(definitions.bleu(responses, references)),
            "rouge_score": close(sum(definitions.rouge_l(*pair) for pair in pairs) / size),
            "response_diversity": close(definitions.distinct_2(responses)),
            "avg_response_length": close(sum(evaluated.lengths[row] for row in rows) / size),
        }


def test_each_samples_own_metrics_follow_their_definitions(evaluated):
    for row, sample in enumerate(evaluated.samples):
        response, reference, nll = evaluated.responses[row], evaluated.references[row], evaluated.nlls[row]
        assert sample.metrics() == {
            "perplexity": close(math.exp(nll.nats / nll.tokens)),
            "bleu_score": close(definitions.bleu([response], [reference], effective_order=True)),
            "rouge_score": close(definitions.rouge_l(response, reference)),
            "response_diversity": close(definitions.distinct_2([response])),
            "avg_response_length": evaluated.lengths[row],
        }
        texts = definitions.spaced(response), [definitions.spaced(reference)]
        of_sacrebleu = sacrebleu.sentence_bleu(*texts).score / 100
        assert sample.metrics()["bleu_score"] == close(of_sacrebleu)


def test_the_random_texts_reach_every_part_of_the_scales(evaluated):
    for metric in ("bleu_score", "rouge_score", "response_diversity"):
        values = [sample.metrics()[metric] for sample in evaluated.samples]
        assert min(values) == 0
        assert max(values) > 0.8
        assert len(set(values)) > 10


def test_scores_survive_json(evaluated):
    stored = json.loads(json.dumps([asdict(sample) for sample in evaluated.samples]))
    assert corpus_metrics([SampleScores(**record) for record in stored]) == corpus_metrics(evaluated.samples)


def test_the_order_of_the_samples_does_not_matter(evaluated):
    assert corpus_metrics(evaluated.samples[::-1]) == corpus_metrics(evaluated.samples)


CHOICES: list[tuple[MetricName, ...]] = [
    *((name,) for name in METRICS),
    ("avg_response_length", "perplexity"),
    ("rouge_score", "response_diversity", "bleu_score"),
]


@pytest.mark.parametrize("chosen", CHOICES, ids=" ".join)
def test_chosen_metrics_are_as_among_all_five_and_the_others_absent(evaluated, chosen):
    samples = evaluated.scored_by(chosen)
    whole, intervals = corpus_metrics(evaluated.samples), confidence_intervals(evaluated.samples, resamples=50)
    assert corpus_metrics(samples) == {name: whole[name] for name in chosen}
    assert confidence_intervals(samples, resamples=50) == {name: intervals[name] for name in chosen}
    for sample, of_all in zip(samples, evaluated.samples, strict=True):
        assert sample.metrics() == {name: of_all.metrics()[name] for name in chosen}


def test_what_not_every_sample_has_the_corpus_does_not_have(evaluated):
    mixed = [*evaluated.samples[:20], *evaluated.scored_by(("perplexity", "rouge_score"))[20:]]
    assert set(corpus_metrics(mixed)) == set(confidence_intervals(mixed, resamples=50)) == {"perplexity", "rouge_score"}


def test_a_row_without_a_prediction_has_no_perplexity_and_does_not_count():
    likelihoods = [NegativeLogLikelihood(0.0, 0), NegativeLogLikelihood(6.0, 3)]
    with_gap = score_samples(["1", "2"], ["a b", "a b"], None, likelihoods, ["perplexity"])
    assert with_gap[0].metrics()["perplexity"] is None
    assert corpus_metrics(with_gap)["perplexity"] == close(math.exp(2))
    with pytest.raises(MetricError, match="no row has a labelled token"):
        corpus_metrics(with_gap[:1])


def test_a_perplexity_beyond_any_float_is_an_error_with_the_mean_loss():
    (sample,) = score_samples(["1"], ["b"], None, [NegativeLogLikelihood(5000.0, 5)], ["perplexity"])
    assert sample.metrics()["perplexity"] is None
    with pytest.raises(MetricError, match=r"mean loss is 1000\.0 nats"):
        corpus_metrics([sample])


def test_no_samples_is_an_error():
    with pytest.raises(MetricError, match="there are no rows"):
        corpus_metrics([])
