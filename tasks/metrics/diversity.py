"""How varied the responses are: distinct-2."""

from itertools import pairwise
from typing import Any

import evaluate
from datasets import Features, Value

from tasks.metrics.errors import MetricError
from tasks.metrics.formulas import distinct_2
from tasks.metrics.hub_free import HubFreeMetric
from tasks.metrics.words import separated


class ResponseDiversity(HubFreeMetric):
    """`response_diversity`: unique bigrams divided by bigrams over all responses, in 0-1; 0 if there are none.

    distinct-2 of Li et al. 2016 ("A Diversity-Promoting Objective Function for Neural Conversation Models"), with
    bigrams in the denominator. Words are what whitespace separates (or single characters, where a script has none:
    `tasks.metrics.words`), lowercased, since a capital at the start of a sentence is not variety; a bigram does not
    reach from one response into the next. Beside the value come each response's `bigrams`, as two words with a space
    between.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="distinct-2: unique bigrams divided by bigrams",
            citation="https://aclanthology.org/N16-1014",
            inputs_description="predictions: list[str]",
            features=Features({"predictions": Value("string")}),
        )

    def _compute(self, *, predictions: list[str]) -> dict[str, Any]:
        if not predictions:
            raise MetricError("response diversity needs at least one response")
        bigrams = [[" ".join(pair) for pair in pairwise(separated(text).lower().split())] for text in predictions]
        return {"response_diversity": distinct_2(bigrams), "bigrams": bigrams}
