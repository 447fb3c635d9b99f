from collections import Counter
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from tasks.metrics.bigram_sets import BigramSets
from tasks.metrics.bootstrap import Interval, blocks, confidence_intervals, resample_counts
from tasks.metrics.errors import MetricError
from tasks.metrics.formulas import distinct_2
from tasks.metrics.samples import ADDITIVE, SampleScores, corpus_metrics
from tests.tasks.metrics.made_samples import TRUE_METRICS, draw_bigrams, draw_samples


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(11)
    count, repetitions = 50, 200
    # distinct-2 of `count` responses has no closed form: its mean over many draws, by sets.
    diversities = [distinct_2([draw_bigrams(rng) for _ in range(count)]) for _ in range(500)]
    truth = TRUE_METRICS | {"response_diversity": sum(diversities) / len(diversities)}
    held: Counter[str] = Counter()
    for seed in range(repetitions):
        for name, interval in confidence_intervals(draw_samples(rng, count), seed, resamples=300).items():
            held[name] += interval.low <= truth[name] <= interval.high
    assert set(held) == set(truth)
    assert all(0.90 <= held[name] / repetitions <= 0.99 for name in truth), held


def test_quantiles_are_those_of_a_bootstrap_by_hand():
    samples = draw_samples(np.random.default_rng(4), 30)
    rng = np.random.default_rng(5)
    resampled = [corpus_metrics([samples[row] for row in rng.integers(30, size=30)]) for _ in range(4000)]
    intervals = confidence_intervals(samples, seed=6, resamples=4000)
    for name in ADDITIVE:
        by_hand = np.quantile([metrics[name] for metrics in resampled], [0.025, 0.975])
        width = by_hand[1] - by_hand[0]
        assert intervals[name] == pytest.approx(tuple(by_hand), abs=width / 20)


def test_the_interval_of_a_mean_is_near_the_textbooks():
    samples = draw_samples(np.random.default_rng(7), 400)
    rouge = [sample.rouge_l for sample in samples]
    reach = NormalDist().inv_cdf(0.975) * float(np.std(rouge)) / 20
    expected = (np.mean(rouge) - reach, np.mean(rouge) + reach)
    assert confidence_intervals(samples)["rouge_score"] == pytest.approx(expected, abs=reach / 8)


def test_diversity_is_not_resampled_with_duplicates():
    rng = np.random.default_rng(8)
    samples = draw_samples(rng, 40)
    value = corpus_metrics(samples)["response_diversity"]
    with_duplicates = [distinct_2([samples[row].bigrams for row in rng.integers(40, size=40)]) for _ in range(300)]
    assert max(with_duplicates) < value
    interval = confidence_intervals(samples)["response_diversity"]
    assert interval.low < value < interval.high
    assert interval.high - interval.low < 0.15


def test_without_each_is_distinct_2_of_the_others():
    samples = draw_samples(np.random.default_rng(9), 25)
    bigrams = [sample.bigrams for sample in samples] + [(), ("a b", "a b", "b a")]
    expected = [distinct_2(bigrams[:place] + bigrams[place + 1 :]) for place in range(len(bigrams))]
    assert BigramSets(bigrams).without_each().tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("bigrams", [[(), ()], [("a b",), ()], [("a b", "a b"), ("a b", "b c")]])
def test_distinct_2_of_sets_is_that_of_their_responses(bigrams):
    chosen = np.array([[True, True], [True, False], [False, True], [False, False]])
    expected = [distinct_2([of_one for of_one, is_in in zip(bigrams, row, strict=True) if is_in]) for row in chosen]
    assert BigramSets(bigrams).distinct_2(chosen).tolist() == expected
    assert BigramSets(bigrams).without_each().tolist() == [expected[2], expected[1]]


def test_distinct_2_of_many_random_sets():
    rng = np.random.default_rng(10)
    bigrams = [draw_bigrams(rng) for _ in range(30)]
    chosen = rng.random((50, 30)) < 0.4
    expected = [distinct_2([bigrams[at] for at in np.flatnonzero(row)]) for row in chosen]
    assert BigramSets(bigrams).distinct_2(chosen).tolist() == pytest.approx(expected, abs=1e-15)


def test_same_seed_same_intervals_and_another_seed_others():
    samples = draw_samples(np.random.default_rng(12), 30)
    assert confidence_intervals(samples, seed=3) == confidence_intervals(samples, seed=3)
    first, second = confidence_intervals(samples, seed=3), confidence_intervals(samples, seed=4)
    assert all(first[name] != second[name] for name in ADDITIVE)
    assert first["response_diversity"] == second["response_diversity"]


def test_resamples_are_with_replacement_and_as_large_as_the_data(monkeypatch):
    # Also across blocks.
    monkeypatch.setattr("tasks.metrics.bootstrap.NUMBERS_AT_ONCE", 50 * 300)
    parts = list(resample_counts(50, 1000, np.random.default_rng(0)))
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    counts = np.concatenate(parts)
    assert (counts.sum(axis=1) == 50).all()
    # A sample is absent from (1 - 1/50)^50 of resamples, and drawn once on average.
    assert np.mean(counts == 0) == pytest.approx(0.98**50, abs=0.01)
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.15)


def test_blocks_do_at_least_one_repeat_at_a_time():
    assert list(blocks(3, 10**9)) == [1, 1, 1]


def test_equal_samples_leave_no_doubt_but_about_diversity():
    sample = draw_samples(np.random.default_rng(13), 1)[0]
    intervals = confidence_intervals([sample] * 5)
    for name, value in corpus_metrics([sample] * 5).items():
        if name != "response_diversity":
            assert intervals[name] == pytest.approx((value, value))


def test_intervals_stay_on_the_scale():
    samples = draw_samples(np.random.default_rng(14), 2)
    unlike = [replace(samples[0], bigrams=("a b", "c d")), replace(samples[1], bigrams=("e f", "e f"))]
    assert confidence_intervals(unlike)["response_diversity"] == Interval(0.0, 1.0)


def test_one_sample_has_no_interval():
    intervals = confidence_intervals(draw_samples(np.random.default_rng(15), 1))
    assert intervals == dict.fromkeys([*TRUE_METRICS, "response_diversity"])


def test_no_interval_where_a_resample_has_no_value():
    samples = draw_samples(np.random.default_rng(16), 2)
    unpredicted: SampleScores = replace(samples[0], nats=0.0, predicted_tokens=0)
    intervals = confidence_intervals([unpredicted, samples[1]])
    assert intervals["perplexity"] is None
    assert intervals["rouge_score"] is not None


def test_no_samples_is_an_error():
    with pytest.raises(MetricError, match="no samples to resample"):
        confidence_intervals([])
