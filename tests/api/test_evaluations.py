"""What the API says of evaluations: numbers, samples, comparisons; records are made through the repositories."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from configs.recipe import METRICS, EvaluationParameters
from registry.clock import utcnow
from registry.repositories.evaluations import EvaluationRepository
from registry.submissions import evaluation_of_parameters
from tasks.metrics.bootstrap import confidence_intervals
from tasks.metrics.comparison import compare
from tasks.metrics.conditions import Conditions
from tasks.metrics.sample_file import EvaluatedSample, read_samples, sample_file, write_samples
from tasks.metrics.samples import corpus_metrics
from tests.api.test_bad_input import assert_error
from tests.tasks.metrics.made_samples import draw_samples, only


def texts_of(scores) -> list[EvaluatedSample]:
    def response(one) -> str | None:
        return None if set(one.metrics()) == {"perplexity"} else f"answer {one.id}"

    return [EvaluatedSample(f"naïve 🦊 {one.id}", response(one), f"right {one.id}", one) for one in scores]


@pytest.fixture(scope="module")
def evaluated(database, settings, tiny_model):
    """Store a completed evaluation of these samples, as the flow does; return its id."""

    def store(scores, with_file=True, left_out_rows=0, **settings_of_it) -> int:
        with database.transaction() as session:
            evaluations = EvaluationRepository(session)
            parameters = EvaluationParameters(model_id=tiny_model["id"], **settings_of_it)
            evaluation = evaluations.add(evaluation_of_parameters(parameters))
            conditions = Conditions(
                max_seq_length=parameters.max_seq_length or 512,
                max_new_tokens=parameters.max_new_tokens or 64,
                rows=len(scores),
                left_out_rows=left_out_rows,
                stopped_responses=2,
            )
            evaluations.record_metrics(
                evaluation, corpus_metrics(scores), confidence_intervals(scores), conditions.as_json()
            )
            evaluations.record_state(evaluation, "COMPLETED", utcnow())
            if with_file:
                write_samples(texts_of(scores), sample_file(settings.evaluations_dir, evaluation.uid))
            return evaluation.id

    return store


@pytest.fixture(scope="module")
def unfinished(database, tiny_model):
    with database.transaction() as session:
        parameters = EvaluationParameters(model_id=tiny_model["id"])
        evaluation = evaluation_of_parameters(parameters, flow_run_id="a run that Prefect has")
        return EvaluationRepository(session).add(evaluation).id


def test_each_metric_has_its_interval(client, evaluated):
    evaluation_id = evaluated(draw_samples(np.random.default_rng(1), 20))
    shown = client.get(f"/api/evaluations/{evaluation_id}").json()
    for name in METRICS:
        low, high = shown[f"{name}_ci95"]
        assert low < shown[name] < high, name
    assert client.get("/api/evaluations").json()["evaluations"][-1] == shown


def test_one_sample_has_no_interval_and_an_unfinished_evaluation_no_numbers(client, evaluated, unfinished):
    single = client.get(f"/api/evaluations/{evaluated(draw_samples(np.random.default_rng(1), 1))}").json()
    assert all(single[name] is not None and single[f"{name}_ci95"] is None for name in METRICS)
    shown = client.get(f"/api/evaluations/{unfinished}").json()
    assert all(shown[name] is None and shown[f"{name}_ci95"] is None for name in METRICS)


def test_an_evaluation_says_what_it_was_measured_under(client, evaluated, unfinished):
    evaluation_id = evaluated(draw_samples(np.random.default_rng(1), 20), left_out_rows=3, max_seq_length=256)
    shown = client.get(f"/api/evaluations/{evaluation_id}").json()
    assert (shown["max_seq_length"], shown["max_new_tokens"]) == (256, 64)
    assert (shown["rows"], shown["left_out_rows"], shown["stopped_responses"]) == (20, 3, 2)
    left_out, stopped = shown["notes"]
    assert left_out.startswith("3 of 23 rows were left out: their prompt does not fit into max_seq_length (256)")
    assert stopped.startswith("2 of 20 responses were stopped at max_new_tokens (64) while their references go on")
    assert client.get(f"/api/evaluations/{unfinished}").json()["notes"] is None


def test_progress_shows_while_samples_are_generated(client, database, unfinished):
    seen = [client.get(f"/api/evaluations/{unfinished}").json()["progress"]]
    for generated in (0, 16, 40):
        with database.transaction() as session:
            EvaluationRepository(session).record_progress(unfinished, generated, 40)
        seen.append(client.get(f"/api/evaluations/{unfinished}").json()["progress"])
    assert seen == [None, 0.0, 40.0, 100.0]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ([], "at least 1 item"),
        (["perplexity", "rouge_score", "perplexity"], "perplexity is named 2 times; name each metric once"),
        (["loss"], "'perplexity', 'bleu_score'"),
        ("perplexity", "valid list"),
        ([None], "metrics.0"),
    ],
)
def test_wrong_choices_of_metrics(client, tiny_model, metrics, said):
    response = client.post(f"/api/models/{tiny_model['id']}/evaluate", json={"metrics": metrics})
    assert_error(response, 422, "metrics", said)


@pytest.fixture(scope="module")
def chosen(evaluated):
    """Store a completed evaluation that was asked for these metrics of samples alone."""

    def store(scores, *metrics, **settings_of_it) -> int:
        return evaluated(only(scores, *metrics), metrics=list(metrics), **settings_of_it)

    return store


def test_what_was_not_asked_for_is_null(client, chosen):
    scores = draw_samples(np.random.default_rng(7), 12)
    evaluation_id = chosen(scores, "avg_response_length", "perplexity")
    shown = client.get(f"/api/evaluations/{evaluation_id}").json()
    numbers, intervals = corpus_metrics(scores), confidence_intervals(scores)
    for name in METRICS:
        has = name in ("perplexity", "avg_response_length")
        assert shown[name] == (numbers[name] if has else None)
        assert shown[f"{name}_ci95"] == (list(intervals[name]) if has else None)
    sample = client.get(f"/api/evaluations/{evaluation_id}/samples?order=first").json()["samples"][0]
    own = scores[0].metrics()
    assert sample["response"] == f"answer {scores[0].id}"
    assert sample["scores"] == dict.fromkeys(METRICS) | {
        name: own[name] for name in ("perplexity", "avg_response_length")
    }


def test_samples_of_perplexity_alone_have_no_response_and_come_by_perplexity(client, chosen):
    scores = draw_samples(np.random.default_rng(8), 12)
    evaluation_id = chosen(scores, "perplexity")
    samples = client.get(f"/api/evaluations/{evaluation_id}/samples").json()["samples"]
    assert {sample["response"] for sample in samples} == {None}
    perplexities = [sample["scores"]["perplexity"] for sample in samples]
    assert perplexities == sorted((one.metrics()["perplexity"] for one in scores), reverse=True)[:10]


# Those with a better direction first.
@pytest.mark.parametrize(
    ("metrics", "by"),
    [
        (METRICS, "rouge_score"),
        (["avg_response_length", "perplexity", "bleu_score"], "bleu_score"),
        (["avg_response_length", "perplexity", "response_diversity"], "perplexity"),
        (["avg_response_length", "response_diversity"], "response_diversity"),
        (["avg_response_length"], "avg_response_length"),
    ],
)
def test_the_metric_that_orders_samples_unless_one_is_named(client, chosen, metrics, by):
    evaluation_id = chosen(draw_samples(np.random.default_rng(9), 15), *metrics)
    expected = shown_prompts(client, evaluation_id, by=by, limit=15)
    assert shown_prompts(client, evaluation_id, limit=15) == expected


def test_samples_can_not_be_ordered_by_what_was_not_computed(client, chosen):
    evaluation_id = chosen(draw_samples(np.random.default_rng(10), 5), "perplexity", "bleu_score")
    response = client.get(f"/api/evaluations/{evaluation_id}/samples?by=rouge_score")
    assert_error(response, 409, f"Evaluation {evaluation_id} has no rouge_score", "perplexity, bleu_score")


@pytest.fixture(scope="module")
def twenty(evaluated):
    scores = draw_samples(np.random.default_rng(2), 20)
    return evaluated(scores), scores


def shown_prompts(client, evaluation_id, **query) -> list[str]:
    response = client.get(f"/api/evaluations/{evaluation_id}/samples", params=query)
    assert response.status_code == 200, response.text
    return [sample["prompt"] for sample in response.json()["samples"]]


def test_samples_come_as_they_were_evaluated_with_their_scores(client, twenty):
    evaluation_id, scores = twenty
    answer = client.get(f"/api/evaluations/{evaluation_id}/samples?order=first&limit=3").json()
    assert answer == {
        "evaluation_id": evaluation_id,
        "samples": [
            {
                "prompt": f"naïve 🦊 {one.id}",
                "response": f"answer {one.id}",
                "reference": f"right {one.id}",
                "scores": one.metrics(),
            }
            for one in scores[:3]
        ],
    }


# Of perplexity the highest is the worst, of all others the lowest.
@pytest.mark.parametrize(("by", "worst_is_high"), [(name, name == "perplexity") for name in METRICS])
def test_the_best_and_worst_samples_by_each_metric(client, twenty, by, worst_is_high):
    evaluation_id, scores = twenty
    ascending = [f"naïve 🦊 {one.id}" for one in sorted(scores, key=lambda one: one.metrics()[by])]
    descending = [f"naïve 🦊 {one.id}" for one in sorted(scores, key=lambda one: -one.metrics()[by])]
    worst, best = (descending, ascending) if worst_is_high else (ascending, descending)
    assert shown_prompts(client, evaluation_id, order="worst", by=by, limit=20) == worst
    assert shown_prompts(client, evaluation_id, order="best", by=by, limit=5) == best[:5]


def test_the_ten_worst_by_rouge_unless_asked_otherwise(client, twenty):
    evaluation_id, _ = twenty
    expected = shown_prompts(client, evaluation_id, order="worst", by="rouge_score", limit=10)
    assert shown_prompts(client, evaluation_id) == expected
    assert len(expected) == 10


def test_a_sample_without_a_perplexity_is_neither_the_best_nor_the_worst(client, evaluated):
    scores = draw_samples(np.random.default_rng(3), 4)
    scores[1] = replace(scores[1], nats=0.0, predicted_tokens=0)
    evaluation_id = evaluated(scores)
    for order in ("worst", "best"):
        assert shown_prompts(client, evaluation_id, order=order, by="perplexity")[-1] == f"naïve 🦊 {scores[1].id}"


def test_samples_that_are_not_there(client, evaluated, unfinished):
    assert_error(client.get(f"/api/evaluations/{unfinished}/samples"), 409, "PENDING", "COMPLETED")
    without = evaluated(draw_samples(np.random.default_rng(4), 3), with_file=False)
    assert_error(client.get(f"/api/evaluations/{without}/samples"), 409, "no stored samples", "evaluate again")
    assert_error(client.get("/api/evaluations/999/samples"), 404, "999")


@pytest.mark.parametrize("query", ["by=loss", "order=middle", "limit=0", "limit=1001"])
def test_wrong_samples_queries(client, twenty, query):
    assert_error(client.get(f"/api/evaluations/{twenty[0]}/samples?{query}"), 422, query.partition("=")[0])


def test_samples_written_before_metrics_could_be_chosen_are_read(tmp_path):
    path = tmp_path / "older.jsonl"
    path.write_text(
        '{"prompt": "What?", "response": "That is it", "reference": "That was it", "scores": {"id": "5e1f", '
        '"nats": 4.5, "predicted_tokens": 3, "bleu_statistics": [3, 3, 2, 0, 0, 0, 3, 2, 1, 0], '
        '"rouge_l": 0.6666666666666666, "generated_tokens": 4, "bigrams": ["that is", "is it"]}}\n',
        encoding="utf-8",
    )
    (sample,) = read_samples(path)
    assert (sample.prompt, sample.response, sample.reference) == ("What?", "That is it", "That was it")
    assert corpus_metrics([sample.scores]) == {
        "perplexity": pytest.approx(math.exp(1.5)),
        "bleu_score": 0,
        "rouge_score": pytest.approx(2 / 3),
        "response_diversity": 1,
        "avg_response_length": 4,
    }


def test_a_broken_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = sample_file(tmp_path, "abc")
    samples = texts_of(draw_samples(np.random.default_rng(5), 3))
    write_samples(samples, path)

    def breaking():
        yield samples[0]
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_samples(breaking(), path)
    assert list(read_samples(path)) == samples
    assert list(tmp_path.iterdir()) == [path]


def test_the_api_process_needs_neither_torch_nor_evaluate():
    program = "import sys, api.server; print([name for name in ('torch', 'evaluate') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def compared(client, a, b) -> dict:
    response = client.get(f"/api/evaluations/compare?ids={a},{b}")
    assert response.status_code == 200, response.text
    return response.json()


def same_tokens(scores, of):
    """The scores as if of a model that splits the rows of `of` alike."""
    return [
        replace(one, predicted_tokens=to.predicted_tokens, nats=one.nats / one.predicted_tokens * to.predicted_tokens)
        for one, to in zip(scores, of, strict=True)
    ]


@pytest.fixture(scope="module")
def two(evaluated):
    worse = draw_samples(np.random.default_rng(1), 40)
    better = same_tokens(draw_samples(np.random.default_rng(2), 40, nats_a_token=1.0), worse)
    return {"worse": worse, "better": better, "ids": (evaluated(worse), evaluated(better))}


def test_the_better_evaluation_is_named_on_either_side(client, two):
    a, b = two["ids"]
    answer = compared(client, a, b)
    assert (answer["ids"], answer["rows"], answer["notes"]) == ([a, b], 40, [])
    assert set(answer["metrics"]) == set(METRICS)
    expected = compare(two["worse"], two["better"])
    for name, difference in answer["metrics"].items():
        first, second = difference["values"]
        assert (first, second) == (corpus_metrics(two["worse"])[name], corpus_metrics(two["better"])[name])
        assert difference["difference"] == second - first
        assert tuple(difference["ci95"]) == expected[name].interval
        assert difference["p_value"] == expected[name].p_value
    assert answer["metrics"]["perplexity"]["better"] == b
    assert answer["metrics"]["avg_response_length"]["better"] is None
    assert compared(client, b, a)["metrics"]["perplexity"]["better"] == b


def test_only_common_rows_are_compared(client, evaluated, two):
    half = evaluated(list(reversed(two["better"][:25])))
    answer = compared(client, two["ids"][0], half)
    assert answer["rows"] == 25
    assert answer["metrics"]["rouge_score"]["values"] == [
        pytest.approx(corpus_metrics(side[:25])["rouge_score"]) for side in (two["worse"], two["better"])
    ]
    assert any("25 common rows" in note and "40" in note for note in answer["notes"])


def test_models_with_other_tokens_have_no_comparable_perplexity(client, evaluated, two):
    other = evaluated(draw_samples(np.random.default_rng(6), 40))
    answer = compared(client, two["ids"][0], other)
    assert set(answer["metrics"]) == set(METRICS) - {"perplexity"}
    assert any("Perplexity is left out" in note for note in answer["notes"])


def test_other_settings_are_noted(client, evaluated, two):
    longer = evaluated(two["better"], max_new_tokens=128)
    notes = compared(client, two["ids"][0], longer)["notes"]
    assert any("64 tokens" in note and "128" in note for note in notes)


def test_another_length_of_the_rows_is_noted(client, evaluated, two):
    longer = evaluated(two["better"], max_seq_length=1024)
    (note,) = compared(client, two["ids"][0], longer)["notes"]
    assert "cut at 512 tokens" in note
    assert "1024" in note


def test_only_common_metrics_are_compared_and_the_others_named(client, chosen, two):
    a = two["ids"][0]
    other = chosen(two["better"], "rouge_score", "perplexity", max_new_tokens=128)
    answer = compared(client, a, other)
    whole = compared(client, *two["ids"])["metrics"]
    assert set(answer["metrics"]) == {"perplexity", "rouge_score"}
    for name, difference in answer["metrics"].items():
        assert difference["values"] == whole[name]["values"]
        assert difference["ci95"] == whole[name]["ci95"]
    assert answer["notes"] == [
        f"Left out, as only evaluation {a} has it: bleu_score, response_diversity, avg_response_length.",
        f"Responses ended after at most 64 tokens in evaluation {a} and 128 in evaluation {other}: all but perplexity "
        "may differ for that alone.",
    ]


def test_perplexity_alone_is_compared_whatever_the_responses_would_have_been(client, chosen, two):
    other = chosen(two["better"], "perplexity", max_new_tokens=128)
    answer = compared(client, chosen(two["worse"], "perplexity"), other)
    assert set(answer["metrics"]) == {"perplexity"}
    assert (answer["metrics"]["perplexity"]["better"], answer["notes"]) == (other, [])


def test_no_common_metric_is_a_conflict_that_names_what_each_has(client, chosen, two):
    a, b = chosen(two["worse"], "perplexity"), chosen(two["better"], "bleu_score", "rouge_score")
    response = client.get(f"/api/evaluations/compare?ids={a},{b}")
    assert_error(response, 409, f"evaluation {a} has perplexity", f"evaluation {b} has bleu_score, rouge_score")


def test_perplexities_alone_over_other_tokens_are_a_conflict(client, chosen, two):
    other_tokens = draw_samples(np.random.default_rng(6), 40)
    a, b = chosen(two["worse"], "perplexity"), chosen(other_tokens, "perplexity")
    response = client.get(f"/api/evaluations/compare?ids={a},{b}")
    assert_error(response, 409, "only perplexity in common", "different numbers of tokens")


def test_no_common_row_is_a_conflict_that_says_so(client, evaluated, two):
    elsewhere = evaluated([replace(one, id=f"elsewhere {one.id}") for one in two["better"]])
    response = client.get(f"/api/evaluations/compare?ids={two['ids'][0]},{elsewhere}")
    assert_error(response, 409, "no rows in common", "same data set")


def test_evaluations_that_can_not_be_compared(client, evaluated, two, unfinished):
    a, _ = two["ids"]
    without = evaluated(two["worse"], with_file=False)
    assert_error(client.get(f"/api/evaluations/compare?ids={a},{unfinished}"), 409, str(unfinished), "PENDING")
    assert_error(client.get(f"/api/evaluations/compare?ids={without},{a}"), 409, str(without), "no stored samples")
    assert_error(client.get(f"/api/evaluations/compare?ids={a},999"), 404, "999")


@pytest.mark.parametrize("ids", ["1", "1,1", "1,2,3", "", "a,b", "0,1", "-1,2", "1,9999999999", "1, 2"])
def test_other_than_two_ids(client, ids):
    assert_error(client.get("/api/evaluations/compare", params={"ids": ids}), 422, "ids")


def test_ids_are_required(client):
    assert_error(client.get("/api/evaluations/compare"), 422, "ids is required")


def test_an_ended_evaluation_is_deleted_with_its_samples(client, database, settings, evaluated):
    evaluation_id = evaluated(draw_samples(np.random.default_rng(3), 4))
    with database.reading() as session:
        uid = EvaluationRepository(session).require(evaluation_id).uid
    assert sample_file(settings.evaluations_dir, uid).exists()
    answer = client.delete(f"/api/evaluations/{evaluation_id}")
    assert answer.json() == {"id": evaluation_id, "message": "Evaluation deleted successfully"}
    assert not sample_file(settings.evaluations_dir, uid).exists()
    assert_error(client.get(f"/api/evaluations/{evaluation_id}"), 404, str(evaluation_id))
    assert_error(client.delete(f"/api/evaluations/{evaluation_id}"), 404, str(evaluation_id))


def test_an_unfinished_evaluation_is_not_deleted(client, unfinished):
    assert_error(client.delete(f"/api/evaluations/{unfinished}"), 409, "PENDING", "when it has ended")
    assert client.get(f"/api/evaluations/{unfinished}").status_code == 200
