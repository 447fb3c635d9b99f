from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tasks.metrics.bootstrap import confidence_intervals
from tasks.metrics.comparison import compare
from tasks.metrics.errors import MetricError
from tasks.metrics.formulas import distinct_2
from tasks.metrics.samples import SampleScores, corpus_metrics
from tests.tasks.metrics.made_samples import draw_samples, only


def draw_pair(rng: np.random.Generator, count: int) -> tuple[list[SampleScores], list[SampleScores]]:
    """Two evaluations by equally good models: each row's samples are independent, but for the number of tokens."""
    a, b = draw_samples(rng, count), draw_samples(rng, count)
    return a, [
        replace(other, predicted_tokens=one.predicted_tokens, nats=other.nats / other.predicted_tokens * tokens)
        for one, other in zip(a, b, strict=True)
        for tokens in [one.predicted_tokens]
    ]


def test_a_real_difference_is_found_and_named():
    rng = np.random.default_rng(1)
    a = draw_samples(rng, 60)
    b = [replace(sample, nats=sample.nats * 0.9, rouge_l=sample.rouge_l * rng.uniform(0.7, 1.1)) for sample in a]
    longer = [replace(sample, generated_tokens=sample.generated_tokens + 5) for sample in b]
    found = compare(a, longer)
    assert found["perplexity"].value < 0
    assert found["perplexity"].better == "b"
    assert found["rouge_score"].better == "a"
    assert found["rouge_score"].interval.high < 0
    assert max(found[name].p_value for name in ("perplexity", "rouge_score", "avg_response_length")) < 0.001
    # Longer is not better, nor worse.
    assert found["avg_response_length"].interval.low > 0
    assert found["avg_response_length"].better is None


def test_a_real_difference_in_bleu_is_found():
    rng = np.random.default_rng(2)
    a = draw_samples(rng, 60)
    lost = [tuple(max(match - 1, 0) for match in sample.bleu_statistics[2:6]) for sample in a]
    b = [
        replace(sample, bleu_statistics=(*sample.bleu_statistics[:2], *fewer, *sample.bleu_statistics[6:]))
        for sample, fewer in zip(a, lost, strict=True)
    ]
    found = compare(a, b)["bleu_score"]
    assert found.better == "a"
    assert found.p_value < 0.001
    assert found.interval.low < found.value < found.interval.high < 0


def test_a_real_difference_in_diversity_is_found():
    rng = np.random.default_rng(3)
    a = draw_samples(rng, 60)
    b = [replace(sample, bigrams=(*sample.bigrams[:-4], *["of the"] * 4)) for sample in a]
    found = compare(a, b)["response_diversity"]
    assert found.interval.low < found.value < found.interval.high < 0
    assert found.p_value < 0.001
    assert found.better is None


def test_equals_are_told_apart_no_more_often_than_a_level_of_5_percent_allows():
    rng = np.random.default_rng(4)
    repetitions = 100
    found = [compare(*draw_pair(rng, 30), seed, resamples=200, shuffles=300) for seed in range(repetitions)]
    for name in corpus_metrics(draw_samples(rng, 1)):
        low_p_values = sum(differences[name].p_value < 0.05 for differences in found)
        assert low_p_values <= 11, name
        assert sum(differences[name].better is not None for differences in found) <= low_p_values
        p_values = [differences[name].p_value for differences in found]
        # Uniform if nothing differs.
        assert np.mean(p_values) == pytest.approx(0.5, abs=0.1), name
        holding_zero = [differences[name].interval.low <= 0 <= differences[name].interval.high for differences in found]
        assert 0.88 <= np.mean(holding_zero) <= 1, name


def test_p_values_are_those_of_all_possible_shuffles():
    a, b = draw_pair(np.random.default_rng(5), 7)
    b = [replace(sample, nats=sample.nats * 0.8) for sample in b]
    pairs = list(zip(a, b, strict=True))
    observed = {name: abs(value - corpus_metrics(a)[name]) for name, value in corpus_metrics(b).items()}
    extreme = dict.fromkeys(observed, 0)
    for swaps in product([False, True], repeat=7):
        sides = [pair[::-1] if swap else pair for pair, swap in zip(pairs, swaps, strict=True)]
        of_a, of_b = (corpus_metrics([pair[side] for pair in sides]) for side in (0, 1))
        for name, value in observed.items():
            extreme[name] += abs(of_b[name] - of_a[name]) >= value - 1e-12
    found = compare(a, b, shuffles=20_000)
    for name, count in extreme.items():
        assert found[name].p_value == pytest.approx(count / 2**7, abs=0.015), name
    assert len(set(extreme.values())) > 3


def test_intervals_are_those_of_a_paired_bootstrap_by_hand():
    rng = np.random.default_rng(6)
    a, b = draw_pair(rng, 30)
    b = [
        replace(other, nats=(one.nats + other.nats) / 2, rouge_l=(one.rouge_l + other.rouge_l) / 2)
        for one, other in zip(a, b, strict=True)
    ]
    resampled = []
    for _ in range(2000):
        rows = rng.integers(30, size=30)
        of_a, of_b = (corpus_metrics([side[row] for row in rows]) for side in (a, b))
        resampled.append({name: of_b[name] - of_a[name] for name in of_a})
    found = compare(a, b, resamples=2000)
    for name in ("perplexity", "bleu_score", "rouge_score", "avg_response_length"):
        by_hand = np.quantile([differences[name] for differences in resampled], [0.025, 0.975])
        assert found[name].interval == pytest.approx(tuple(by_hand), abs=(by_hand[1] - by_hand[0]) / 18), name


def test_the_interval_of_diversitys_difference_is_a_paired_jackknife():
    a, b = draw_pair(np.random.default_rng(7), 12)
    differences = []
    for left_out in range(12):
        of_a, of_b = (distinct_2([s.bigrams for s in side if s.id != str(left_out)]) for side in (a, b))
        differences.append(of_b - of_a)
    error = np.sqrt(11 / 12 * sum((difference - np.mean(differences)) ** 2 for difference in differences))
    found = compare(a, b)["response_diversity"]
    # 2.200985 is the t table's for 11 degrees of freedom.
    expected = (found.value - 2.200985 * error, found.value + 2.200985 * error)
    assert found.interval == pytest.approx(expected, rel=1e-5)


def test_pairing_sees_what_two_separate_intervals_hide():
    rng = np.random.default_rng(8)
    a = draw_samples(rng, 40)
    b = [replace(sample, rouge_l=sample.rouge_l + rng.normal(0.03, 0.02)) for sample in a]
    alone_a, alone_b = (confidence_intervals(side)["rouge_score"] for side in (a, b))
    assert alone_a.high > alone_b.low
    assert compare(a, b)["rouge_score"].better == "b"


def test_other_way_round_is_the_opposite():
    rng = np.random.default_rng(9)
    a, b = draw_pair(rng, 40)
    b = [replace(sample, nats=sample.nats * 0.7) for sample in b]
    there, back = compare(a, b), compare(b, a)
    assert (there["perplexity"].better, back["perplexity"].better) == ("b", "a")
    for name, difference in there.items():
        assert back[name].value == pytest.approx(-difference.value)
        assert back[name].interval == pytest.approx((-difference.interval.high, -difference.interval.low))


def test_values_are_the_differences_of_the_corpus_metrics_in_whatever_order_the_rows_come():
    a, b = draw_pair(np.random.default_rng(10), 20)
    found = compare(a, b)
    for name, value in corpus_metrics(a).items():
        assert found[name].value == pytest.approx(corpus_metrics(b)[name] - value)
    assert compare(a[::-1], b[5:] + b[:5]) == found
    assert compare(a, b, seed=0) == found != compare(a, b, seed=1)


def test_an_evaluation_against_itself():
    a = draw_samples(np.random.default_rng(11), 20)
    for difference in compare(a, a).values():
        assert (difference.value, difference.interval, difference.p_value) == (0, (0, 0), 1)
        assert difference.better is None


def test_too_few_rows_prove_nothing():
    a = draw_samples(np.random.default_rng(12), 5)
    b = [replace(sample, nats=sample.nats / 2, rouge_l=sample.rouge_l + 0.3) for sample in a]
    assert {difference.better for difference in compare(a, b).values()} == {None}
    alone = compare(a[:1], b[:1])
    assert all(difference.interval is None and difference.p_value == 1 for difference in alone.values())


def test_perplexities_over_other_tokens_are_not_compared():
    a = draw_samples(np.random.default_rng(13), 10)
    b = [*a[:-1], replace(a[-1], predicted_tokens=a[-1].predicted_tokens + 1)]
    assert set(compare(a, b)) == {"bleu_score", "rouge_score", "response_diversity", "avg_response_length"}


def test_only_what_both_sides_have_is_compared():
    a, b = draw_pair(np.random.default_rng(17), 30)
    whole = compare(a, b)
    found = compare(only(a, "perplexity", "rouge_score"), only(b, "bleu_score", "rouge_score", "perplexity"))
    assert set(found) == {"perplexity", "rouge_score"}
    for name, difference in found.items():
        assert (difference.value, difference.interval) == (whole[name].value, whole[name].interval)
        assert difference.p_value == pytest.approx(whole[name].p_value, abs=0.05)
    diversities = compare(only(a, "response_diversity"), only(b, "response_diversity"))
    assert diversities == {"response_diversity": whole["response_diversity"]}
    assert compare(only(a, "perplexity"), only(b, "response_diversity")) == {}


def test_no_p_value_where_a_shuffle_has_no_perplexity():
    a = [replace(sample, nats=1000.0, predicted_tokens=2) for sample in draw_samples(np.random.default_rng(14), 2)]
    b = [replace(a[0], nats=0.0), replace(a[1], nats=1900.0)]
    found = compare(a, b)
    assert found["perplexity"].p_value is None
    assert found["perplexity"].better is None
    assert found["rouge_score"].p_value == 1


def test_rows_that_differ_are_an_error_with_the_number_of_common_ones():
    samples = draw_samples(np.random.default_rng(15), 6)
    with pytest.raises(MetricError, match="3 are common, of 4 and 5"):
        compare(samples[:4], samples[1:])
    with pytest.raises(MetricError, match="1 are common, of 2 and 1"):
        compare([samples[0], samples[0]], samples[:1])
    with pytest.raises(MetricError, match="there are no rows"):
        compare([], [])


def test_rows_that_occur_twice_are_matched_twice():
    a, b = draw_pair(np.random.default_rng(16), 8)
    found = compare(a + a, b + b)
    assert found["rouge_score"].value == pytest.approx(compare(a, b)["rouge_score"].value)
