"""Corpus BLEU, by sacrebleu."""

from typing import Any

import evaluate
from datasets import Features, Value
from sacrebleu.metrics.bleu import BLEU

from tasks.metrics.errors import MetricError
from tasks.metrics.formulas import bleu
from tasks.metrics.hub_free import HubFreeMetric
from tasks.metrics.words import separated


class Bleu(HubFreeMetric):
    """`bleu_score`: corpus BLEU of responses against one reference each, in 0-1.

    Papineni et al. 2002 as standardised by Post 2018 ("A Call for Clarity in Reporting BLEU Scores"): up to 4-grams,
    tokenizer 13a, exponential smoothing, case kept; sacrebleu's score divided by 100. Characters of scripts without
    spaces are separated before (`tasks.metrics.words`), as 13a would take a sentence of them for one word. Beside it
    come each response's `statistics`, which `formulas.bleu` takes.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU by sacrebleu, divided by 100",
            citation="https://aclanthology.org/W18-6319",
            inputs_description="predictions: list[str]; references: list[str], one for each prediction",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, Any]:
        if not predictions:
            raise MetricError("BLEU needs at least one response")
        # One sentence at a time is sacrebleu's public way to each response's counts.
        counter = BLEU(tokenize="13a", effective_order=True)
        scores = [
            counter.sentence_score(separated(prediction), [separated(reference)])
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        statistics = [(score.sys_len, score.ref_len, *score.counts, *score.totals) for score in scores]
        return {"bleu_score": bleu([sum(column) for column in zip(*statistics, strict=True)]), "statistics": statistics}
