"""The sampler against transformers' logits processors, and its draws against the distribution."""

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tasks.inference.sampling import SamplingParameters, draw, process_logits, sample_token

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
    return logits


SETTINGS = [
    SamplingParameters(1.0, 1.0, 0, 1.0),
    SamplingParameters(0.7, 0.9, 50, 1.0),
    SamplingParameters(0.7, 0.9, 50, 1.3),
    SamplingParameters(1.5, 0.5, 0, 0.8),
    SamplingParameters(0.1, 1.0, 5, 1.1),
    SamplingParameters(1.0, 0.01, 0, 1.0),
    SamplingParameters(2.0, 0.99, 10_000, 1.0),
]


@pytest.mark.parametrize("parameters", SETTINGS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_logits_equal_those_of_transformers(parameters, seed):
    logits, ids, seen = random_rows(seed)
    expected = transformers_logits(logits, ids, parameters)
    assert torch.equal(process_logits(logits, seen, parameters), expected)
    assert torch.equal(process_logits(logits[1], seen[1], parameters), expected[1])


@pytest.mark.parametrize("parameters", SETTINGS, ids=str)
def test_one_sequence_draws_as_the_whole_row_would(parameters):
    logits, _, seen = random_rows(7)
    whole_row = process_logits(logits[0], seen[0], parameters)
    for seed in range(200):
        uniform = torch.rand((), generator=torch.Generator().manual_seed(seed))
        token_id = sample_token(logits[0], seen[0], parameters, torch.Generator().manual_seed(seed))
        assert token_id == int(draw(whole_row, uniform)) or _shares_value(whole_row, token_id, draw(whole_row, uniform))
        assert torch.isfinite(whole_row[token_id])


def _shares_value(row, one, other):
    """Summation order may move a draw between neighbours whose boundary it hits to the last digit."""
    return abs(one - int(other)) <= 1 or row[one] == row[int(other)]


def test_draws_follow_the_distribution():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    drawn = draw(probabilities.log().expand(20_000, 4), uniform)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares[1] == 0
    assert torch.allclose(shares, probabilities, atol=0.02)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24, 1.0])
def test_a_draw_at_the_edge_is_a_possible_token(uniform):
    logits = torch.tensor([float("-inf"), 1.0, 2.0, float("-inf")])
    assert int(draw(logits, torch.tensor(uniform))) in (1, 2)


def test_greedy_takes_the_largest_after_the_penalty():
    logits, seen = torch.tensor([4.0, 3.9, -1.0]), torch.tensor([True, False, True])
    greedy = SamplingParameters(0.0, 0.9, 50, 1.2)
    assert sample_token(logits, seen, greedy, torch.Generator()) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.1), ("top_k", -1)],
)
def test_meaningless_parameters_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        SamplingParameters(**{field: value})
