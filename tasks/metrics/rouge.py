"""ROUGE-L, by rouge_score."""

import math
from typing import Any

import evaluate
from datasets import Features, Value
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from tasks.metrics.errors import MetricError
from tasks.metrics.formulas import mean
from tasks.metrics.hub_free import HubFreeMetric
from tasks.metrics.words import words


class _StemmedWords(Tokenizer):  # type: ignore[misc]  # rouge_score is untyped
    """Words of any script for rouge_score, whose own tokenizer knows the letters a to z alone."""

    def __init__(self) -> None:
        self._english = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Return the words, those of ASCII letters stemmed."""
        return [stem for word in words(text) for stem in (self._english.tokenize(word) if word.isascii() else (word,))]


class Rouge(HubFreeMetric):
    """`rouge_score`: the mean over responses of ROUGE-L F1 against one reference each, stemmed, in 0-1.

    Lin 2004 ("ROUGE: A Package for Automatic Evaluation of Summaries"): longest common subsequence of words, which are
    those of `tasks.metrics.words`. Words of ASCII letters are stemmed by Porter's rules for English, as rouge_score
    does. Beside the mean come the `sample_scores` behind it.
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
        scorer = RougeScorer(["rougeL"], tokenizer=_StemmedWords())
        scores = [
            float(scorer.score(reference, prediction)["rougeL"].fmeasure)
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"rouge_score": mean(math.fsum(scores), len(scores)), "sample_scores": scores}
