"""ROUGE-L, by rouge_score."""

import math
from typing import Any

import evaluate
from datasets import Features, Value
from rouge_score.rouge_scorer import RougeScorer

from tasks.metrics.errors import MetricError
from tasks.metrics.formulas import mean
from tasks.metrics.hub_free import HubFreeMetric


class Rouge(HubFreeMetric):
    """`rouge_score`: the mean over responses of ROUGE-L F1 against one reference each, stemmed, in 0-1.

    Lin 2004 ("ROUGE: A Package for Automatic Evaluation of Summaries"): longest common subsequence of words. The words
    are runs of lowercased Latin letters and digits, so a response without any scores 0. Beside the mean come the
    `sample_scores` behind it.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean ROUGE-L F1 by rouge_score, with stemming",
            citation="https://aclanthology.org/W04-1013",
            inputs_description="predictions: list[str]; references: list[str], one for each prediction",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        if not predictions:
            raise MetricError("ROUGE needs at least one response")
        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        scores = [
            float(scorer.score(reference, prediction)["rougeL"].fmeasure)
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"rouge_score": mean(math.fsum(scores), len(scores)), "sample_scores": scores}
