import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import sacrebleu

from tasks.metrics.errors import MetricError
from tasks.metrics.perplexity import NegativeLogLikelihood
from tasks.metrics.samples import SampleScores, corpus_metrics
from tasks.metrics.scoring import score_samples
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
        self.samples = score_samples(
            [f"row {row}" for row in range(count)], self.responses, self.references, self.lengths, self.nlls
        )


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
        of_sacrebleu = sacrebleu.sentence_bleu(response, [reference]).score / 100
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


def test_a_row_without_a_prediction_has_no_perplexity_and_does_not_count():
    rest = ([""] * 2, ["a b", "a b"], [0, 0])
    with_gap = score_samples(["1", "2"], *rest, [NegativeLogLikelihood(0.0, 0), NegativeLogLikelihood(6.0, 3)])
    assert with_gap[0].metrics()["perplexity"] is None
    assert corpus_metrics(with_gap)["perplexity"] == close(math.exp(2))
    with pytest.raises(MetricError, match="no row has a labelled token"):
        corpus_metrics(with_gap[:1])


def test_a_perplexity_beyond_any_float_is_an_error_with_the_mean_loss():
    (sample,) = score_samples(["1"], ["a"], ["b"], [1], [NegativeLogLikelihood(5000.0, 5)])
    assert sample.metrics()["perplexity"] is None
    with pytest.raises(MetricError, match=r"mean loss is 1000\.0 nats"):
        corpus_metrics([sample])


def test_no_samples_is_an_error():
    with pytest.raises(MetricError, match="there are no responses"):
        corpus_metrics([])
