"""The sampler against transformers' logits processors, samples against the distribution, a row against its batch."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tasks.inference.sampling import (
    Bias,
    Row,
    SamplingParameters,
    biased,
    discouraged,
    filtered,
    inverse_transform,
    log_probabilities,
    penalized,
    sample,
)

VOCABULARY = 512


def random_rows(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Rounded to bfloat16, as real logits are: ties must be treated alike.
    logits = (torch.randn(4, VOCABULARY, generator=generator) * 3).bfloat16().float()
    ids = torch.randint(VOCABULARY, (4, 40), generator=generator)
    seen = torch.zeros(4, VOCABULARY, dtype=torch.bool).scatter(1, ids, True)
    return logits, ids, seen


def transformers_logits(logits: torch.Tensor, ids: torch.Tensor, parameters: SamplingParameters) -> torch.Tensor:
    if parameters.repetition_penalty != 1:
        logits = RepetitionPenaltyLogitsProcessor(parameters.repetition_penalty)(ids, logits)
    if parameters.temperature:
        logits = TemperatureLogitsWarper(parameters.temperature)(ids, logits)
    if parameters.top_k:
        logits = TopKLogitsWarper(parameters.top_k)(ids, logits)
    if parameters.top_p < 1:
        logits = TopPLogitsWarper(parameters.top_p)(ids, logits)
    if parameters.min_p > 0:
        logits = MinPLogitsWarper(parameters.min_p)(ids, logits)
    return logits


def our_logits(logits, rows):
    """The filtered logits, spread over the whole vocabulary."""
    values, candidates = filtered(discouraged(penalized(biased(logits, rows), rows), rows), rows)
    if candidates is None:
        return values
    return torch.full_like(logits, float("-inf")).scatter(-1, candidates, values)


def same(ours, theirs):
    """Equal but for which of equal logits stays at the edge of top-p: transformers' sort leaves that open."""
    return torch.equal(ours.sort(-1).values, theirs.sort(-1).values)


SETTINGS = [
    SamplingParameters(1.0, 1.0, 0, 1.0),
    SamplingParameters(0.7, 0.9, 50, 1.0),
    SamplingParameters(0.7, 0.9, 50, 1.3),
    SamplingParameters(1.5, 0.5, 0, 0.8),
    SamplingParameters(0.1, 1.0, 5, 1.1),
    SamplingParameters(1.0, 0.01, 0, 1.0),
    SamplingParameters(2.0, 0.99, 10_000, 1.0),
    SamplingParameters(1.0, 1.0, 0, 1.0, min_p=0.1),
    SamplingParameters(1.2, 0.95, 80, 1.1, min_p=0.02),
    SamplingParameters(0.8, 0.9, 40, 1.0, frequency_penalty=0.7),
    SamplingParameters(1.0, 1.0, 0, 1.2, frequency_penalty=-0.3, presence_penalty=1.9),
]


@pytest.mark.parametrize("seed", range(3))
def test_logits_equal_those_of_transformers(seed):
    logits, ids, seen = random_rows(seed)
    for parameters in SETTINGS:
        expected = transformers_logits(logits, ids, parameters)
        assert same(our_logits(logits, [Row(parameters, seen=its) for its in seen]), expected), parameters
        assert same(our_logits(logits[1:2], [Row(parameters, seen=seen[1])]), expected[1:2]), parameters


def test_rows_with_different_parameters_are_each_as_in_a_batch_of_one():
    logits, ids, seen = random_rows(3)
    logits, ids, seen = (each[:1].expand(len(SETTINGS), -1) for each in (logits, ids, seen))
    ours = our_logits(logits, [Row(parameters, seen=its) for parameters, its in zip(SETTINGS, seen, strict=True)])
    for index, parameters in enumerate(SETTINGS):
        assert same(ours[index], transformers_logits(logits[:1], ids[:1], parameters)[0]), parameters
        assert torch.equal(ours[index], our_logits(logits[:1], [Row(parameters, seen=seen[0])])[0]), parameters


def test_a_sample_does_not_depend_on_the_other_rows():
    logits, _, seen = random_rows(7)
    row = logits[0].mul(4).round().div(4)  # many equal logits
    for seed in range(60):
        dice = torch.Generator().manual_seed(seed)
        uniform, batch = float(torch.rand((), generator=dice)), torch.randn(len(SETTINGS), VOCABULARY, generator=dice)
        for parameters in SETTINGS:
            counts = torch.randint(3, (VOCABULARY,), generator=dice).float()
            ids = torch.randperm(VOCABULARY, generator=dice)[:20]
            own = Row(parameters, uniform, seen[0], bias=Bias(ids, torch.randn(20, generator=dice)), counts=counts)
            others = [Row(replace(each, repetition_penalty=1.0), 0.5, counts=counts + 1) for each in SETTINGS]
            others[3] = replace(others[3], bias=Bias(ids[:4], torch.full((4,), float("-inf"))))
            alone = int(sample(row[None], [own])[0])
            assert alone == int(sample(torch.cat((batch, row[None])), [*others, own])[-1])
            assert torch.isfinite(our_logits(row[None], [own])[0, alone])


def test_samples_follow_the_distribution():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    uniform = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    drawn = inverse_transform(probabilities.log().expand(20_000, 4), uniform)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares[1] == 0
    assert torch.allclose(shares, probabilities, atol=0.02)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24, 1.0])
def test_a_sample_at_the_edge_is_a_possible_token(uniform):
    logits = torch.tensor([[float("-inf"), 1.0, 2.0, float("-inf")]])
    assert int(inverse_transform(logits, torch.tensor([[uniform]]))) in (1, 2)


def test_greedy_takes_the_largest_after_the_penalty():
    logits, seen = torch.tensor([[4.0, 3.9, -1.0]]), torch.tensor([True, False, True])
    greedy = SamplingParameters(0.0, 0.9, 50, 1.2)
    assert sample(logits, [Row(greedy, seen=seen)]).tolist() == [1]


def test_penalties_follow_openais_formula():
    logits, _, _ = random_rows(4)
    counts = torch.zeros(4, VOCABULARY)
    counts[0, 3], counts[0, 5], counts[1, 3], counts[2, 9] = 1, 4, 2, 7
    rows = [
        Row(SamplingParameters(frequency_penalty=0.5, presence_penalty=1.5), counts=counts[0]),
        Row(SamplingParameters(presence_penalty=-2.0), counts=counts[1]),
        Row(SamplingParameters()),
        Row(SamplingParameters(frequency_penalty=2.0), counts=counts[3]),
    ]
    changes = discouraged(logits, rows) - logits
    assert [(int(row), int(token)) for row, token in changes.nonzero()] == [(0, 3), (0, 5), (1, 3)]
    assert changes[[0, 0, 1], [3, 5, 3]].tolist() == pytest.approx([-2.0, -3.5, 2.0], abs=1e-5)


def test_a_bias_is_added_to_its_row_alone():
    logits, _, _ = random_rows(6)
    bias = Bias(torch.tensor([4, 500]), torch.tensor([2.5, float("-inf")]))
    changed = biased(logits, [Row(SamplingParameters()), Row(SamplingParameters(), bias=bias)] * 2)
    assert torch.equal(changed[::2], logits[::2])
    assert torch.equal(changed[1::2, 4], logits[1::2, 4] + 2.5)
    assert (changed == float("-inf")).nonzero().tolist() == [[1, 500], [3, 500]]
    assert biased(logits, [Row(SamplingParameters())] * 4) is logits


def test_log_probabilities_are_those_of_the_model_itself():
    logits, _, _ = random_rows(5)
    chosen = torch.tensor([3, 1, 4, 1])
    own, ranks, values, ids = log_probabilities(logits, chosen, 5)
    expected = logits.log_softmax(-1)
    assert torch.equal(own, expected[range(4), chosen])
    best = expected.sort(-1, descending=True).values
    assert [float(best[row, rank - 1]) for row, rank in enumerate(ranks.tolist())] == own.tolist()
    assert torch.equal(values, expected.gather(-1, ids))
    assert torch.equal(values, expected.sort(-1, descending=True).values[:, :5])


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.1), ("top_k", -1), ("min_p", 2)],
)
def test_meaningless_parameters_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        SamplingParameters(**{field: value})
