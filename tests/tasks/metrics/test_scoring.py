import math
import subprocess
import sys

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from tasks.metrics.bleu import Bleu
from tasks.metrics.diversity import ResponseDiversity
from tasks.metrics.errors import MetricError
from tasks.metrics.perplexity import NegativeLogLikelihood
from tasks.metrics.rouge import Rouge
from tasks.metrics.samples import SampleScores, corpus_metrics
from tasks.metrics.scoring import Responses, score_samples

RESPONSES = [
    "Return the absolute value of the argument .",
    "Serialize the object to a JSON formatted string, then writes it.",
    "",
    "日本語 naïve 🦊",
]
REFERENCES = [
    "Return the absolute value of the argument.",
    "Serialize ``obj`` to a JSON formatted ``str``.",
    "Do nothing.",
    "日本語 naïve 🦊",
]


def scores_of(responses: list[str], references: list[str], lengths: list[int]) -> list[SampleScores]:
    ids = [str(row) for row in range(len(responses))]
    likelihoods = [NegativeLogLikelihood(2.0, 1)] * len(responses)
    return score_samples(ids, references, Responses(responses, lengths), likelihoods)


def test_bleu_is_sacrebleus_corpus_score():
    score = Bleu().compute(predictions=RESPONSES, references=REFERENCES)
    apart = [["日 本 語 naïve 🦊" if "日" in text else text for text in texts] for texts in (RESPONSES, REFERENCES)]
    expected = sacrebleu.corpus_bleu(apart[0], [apart[1]], tokenize="13a", smooth_method="exp").score
    assert score["bleu_score"] == pytest.approx(expected / 100, abs=1e-12)
    assert 0.05 < score["bleu_score"] < 0.95
    per_row = [sacrebleu.sentence_bleu(*pair).score for pair in zip(apart[0], [[r] for r in apart[1]], strict=True)]
    assert score["bleu_score"] != pytest.approx(sum(per_row) / 400, abs=1e-3)


def test_rouge_is_the_mean_of_rouge_scores_f1():
    score = Rouge().compute(predictions=RESPONSES, references=REFERENCES)
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    singles = [
        scorer.score(target=reference, prediction=response)["rougeL"].fmeasure
        for response, reference in zip(RESPONSES[:3], REFERENCES[:3], strict=True)
    ]
    # The fourth has no word that rouge_score's own tokenizer knows whole.
    singles.append(1.0)
    assert score == {"rouge_score": pytest.approx(sum(singles) / 4, abs=1e-12), "sample_scores": singles}


@pytest.mark.parametrize(
    ("response", "reference", "rouge"),
    [
        # 我 学 习 of four and of five characters: P 3/4, R 3/5.
        ("我不学习", "我在学习。中", 2 / 3),
        ("東京タワーです", "東京タワーです", 1.0),
        ("ฉันรักเธอ", "ฉันรักเธอ", 1.0),
        ("Привет, мир", "Привет мир!", 1.0),
        ("हिन्दी में", "हिन्दी", 2 / 3),
        ("cafe\u0301", "café", 1.0),
        ("我爱你", "他们好", 0.0),
    ],
)
def test_rouge_of_other_scripts_by_hand(response, reference, rouge):
    assert Rouge().compute(predictions=[response], references=[reference])["rouge_score"] == pytest.approx(rouge)


def test_bleu_of_chinese_is_that_of_sacrebleus_tokenizer_for_it():
    responses, references = (
        ["今天天气很好、我们去公园。", "他在学校 read books。"],
        ["今天天气不错、我们去公园玩。", "他在学校 read a book。"],
    )
    score = Bleu().compute(predictions=responses, references=references)["bleu_score"]
    expected = sacrebleu.corpus_bleu(responses, [references], tokenize="zh", smooth_method="exp").score
    assert score == pytest.approx(expected / 100, abs=1e-12)
    assert 0.2 < score < 0.9


def test_rouge_by_hand_with_stemming():
    # "returned values" against "return the value": stems return, valu against return, the, valu; P 2/2, R 2/3.
    score = Rouge().compute(predictions=["Returned values"], references=["return the value"])
    assert score["rouge_score"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("responses", "expected"),
    [
        # the cat, cat sat | the cat, cat ran: 3 unique of 4; case and runs of whitespace do not count.
        (["The cat  sat", "the cat\nran"], 3 / 4),
        (["a a a a"], 1 / 3),
        (["a b", "c d"], 1.0),
        (["one", "", " "], 0.0),
        # 好 好, 好 学, 学 好, 好 好: three unique of four.
        (["好好学好好"], 3 / 4),
    ],
)
def test_diversity_by_hand(responses, expected):
    score = ResponseDiversity().compute(predictions=responses)
    assert score["response_diversity"] == pytest.approx(expected)


def test_perfect_and_hopeless_responses_reach_the_ends_of_the_scale():
    texts = ["the quick brown fox jumps over the lazy dog", "return a list of the names in the directory"]
    perfect = corpus_metrics(scores_of(texts, texts, [9, 9]))
    assert 1 - 1e-9 < perfect["bleu_score"] <= 1
    assert perfect["rouge_score"] == pytest.approx(1)
    empty = corpus_metrics(scores_of(["", ""], texts, [0, 0]))
    del empty["perplexity"]
    assert empty == {"bleu_score": 0, "rouge_score": 0, "response_diversity": 0, "avg_response_length": 0}


def test_the_samples_add_up_to_what_the_metrics_say_of_the_texts():
    scores = corpus_metrics(scores_of(RESPONSES, REFERENCES, [8, 12, 0, 5]))
    assert scores == {
        "perplexity": pytest.approx(math.exp(2)),
        "bleu_score": Bleu().compute(predictions=RESPONSES, references=REFERENCES)["bleu_score"],
        "rouge_score": Rouge().compute(predictions=RESPONSES, references=REFERENCES)["rouge_score"],
        "response_diversity": ResponseDiversity().compute(predictions=RESPONSES)["response_diversity"],
        "avg_response_length": 6.25,
    }
    assert all(type(value) is float for value in scores.values())


@pytest.mark.parametrize("nats", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_an_error_and_no_perplexity(nats):
    with pytest.raises(MetricError, match=f"the loss is {nats}, which is no finite number"):
        corpus_metrics([SampleScores("1", 2.0, 1), SampleScores("2", nats, 3)])


def test_any_metric_that_is_no_number_is_an_error():
    with pytest.raises(MetricError, match="rouge_score is nan"):
        corpus_metrics([SampleScores("1", rouge_l=math.nan)])


def test_no_responses_is_an_error():
    with pytest.raises(MetricError, match="there are no rows"):
        score_samples([], [], Responses([], []), [])
    with pytest.raises(MetricError, match="at least one response"):
        Bleu().compute(predictions=[], references=[])
    with pytest.raises(MetricError, match="at least one response"):
        Rouge().compute(predictions=[], references=[])
    with pytest.raises(MetricError, match="at least one response"):
        ResponseDiversity().compute(predictions=[])


def test_unequal_counts_are_an_error():
    with pytest.raises(MetricError, match="2 ids, 1 references, 2 responses, 2 lengths, 0 likelihoods"):
        score_samples(["1", "2"], ["a"], Responses(["a", "b"], [1, 1]), [])


def test_a_metric_without_what_it_is_made_of_is_an_error():
    with pytest.raises(MetricError, match="perplexity was asked for, but no likelihood"):
        score_samples(["1"], ["a"], Responses(["a"], [1]), None)
    with pytest.raises(MetricError, match="rouge_score was asked for, but no response"):
        score_samples(["1"], ["a"], None, [NegativeLogLikelihood(2.0, 1)], ["perplexity", "rouge_score"])


def test_a_fresh_home_stays_empty_without_network(tmp_path):
    program = """
import socket
def refuse(*_):
    raise AssertionError("reached for the network")
socket.socket.connect = refuse
from tasks.metrics.perplexity import NegativeLogLikelihood
from tasks.metrics.scoring import Responses, score_samples
responses = Responses(["the cat sat"], [3])
print(score_samples(["1"], ["the cat ran"], responses, [NegativeLogLikelihood(1.0, 1)])[0].rouge_l)
"""
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    environment = {"HOME": str(home), "TMPDIR": str(temporary), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(2 / 3)
    assert done.stderr == ""
    assert list(home.rglob("*")) == []
    # torch makes that one when it is imported.
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("torchinductor_")] == []
