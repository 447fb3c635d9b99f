"""Corpus BLEU, by sacrebleu."""

import evaluate
from datasets import Features, Value
from sacrebleu.metrics import BLEU

from tasks.metrics.hub_free import HubFreeMetric, MetricError


class Bleu(HubFreeMetric):
    """`bleu_score`: corpus BLEU of responses against one reference each, in 0-1.

    Papineni et al. 2002 as standardised by Post 2018 ("A Call for Clarity in Reporting BLEU Scores"): up to 4-grams,
    tokenizer 13a, exponential smoothing, case kept; sacrebleu's score divided by 100.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU by sacrebleu, divided by 100",
            citation="https://aclanthology.org/W18-6319",
            inputs_description="predictions: list[str]; references: list[str], one for each prediction",
            features=Features({"predictions": Value("string"), "references": Value("string")}),
        )

    def _compute(self, *, predictions: list[str], references: list[str]) -> dict[str, float]:
        if not predictions:
            raise MetricError("BLEU needs at least one response")
        # `force` only silences a hint that the text looks tokenized already, which code does.
        bleu = BLEU(tokenize="13a", smooth_method="exp", force=True)
        score = float(bleu.corpus_score(predictions, [references]).score)
        # Equal texts score a few units in the last place above 100.
        return {"bleu_score": min(score / 100, 1.0)}
