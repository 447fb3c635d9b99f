"""Lists: in pieces that say where they go on, filtered and ordered by the server, on every one of them alike."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import insert

from configs.recipe import EvaluationParameters
from registry.clock import timestamp, utcnow
from registry.submissions import evaluation_of_parameters
from registry.tables import Dataset, Evaluation, Model, TrainingJob

LISTS = {"training": "training_jobs", "evaluations": "evaluations", "models": "models", "datasets": "datasets"}
STATUSES = {"training": "FAILED", "evaluations": "FAILED", "models": "UNAVAILABLE", "datasets": "INVALID"}
OLD, NEW = datetime(2020, 1, 1), datetime(2030, 1, 1)


def listed(client, kind: str, **query) -> dict:
    response = client.get(f"/api/{kind}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


def ids(client, kind: str, **query) -> list[int]:
    return [one["id"] for one in listed(client, kind, **query)[LISTS[kind]]]


@pytest.fixture(scope="module")
def records(client, database, tiny_model, job):
    """Of each kind three records that no other test makes: the middle one in another status and model, the last new."""
    job()  # so that the model is named by one at least
    recipe = {"epochs": 1, "learning_rate": 0.1, "batch_size": 1}
    made = {}
    parameters = evaluation_of_parameters(EvaluationParameters(model_id=1)).parameters
    with database.transaction() as session:
        for kind, table, name, fields in (
            ("training", TrainingJob, "job_name", {"recipe": recipe}),
            ("evaluations", Evaluation, "eval_name", {"parameters": parameters}),
            ("models", Model, "name", {"base_model": "tiny-llama"}),
            ("datasets", Dataset, "name", {"source": "upload", "settings": {}}),
        ):
            usual = "AVAILABLE" if kind == "models" else "READY" if kind == "datasets" else "COMPLETED"
            rows = []
            for number in range(3):
                row: dict[str, Any] = {**fields, name: f"listed {number}"}
                row["status"] = STATUSES[kind] if number == 1 else usual
                row["created_at"] = NEW if number == 2 else OLD
                if kind != "models":
                    row["uid"] = f"{kind}{number}"
                if kind in ("training", "evaluations"):
                    row |= {"model_id": 2 if number == 1 else tiny_model["id"], "flow_run_id": f"{kind}{number}"}
                rows.append(row)
            made[kind] = list(session.scalars(insert(table).returning(table.id, sort_by_parameter_order=True), rows))
    return made


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_goes_on_where_it_was_cut_in_either_order(client, records, kind):
    everything = ids(client, kind)
    assert everything == sorted(everything)
    assert listed(client, kind)["next_after"] is None
    for order, expected in (("asc", everything), ("desc", everything[::-1])):
        assert ids(client, kind, order=order) == expected
        found, after = [], None
        while True:
            query = {"limit": 2, "order": order} | ({} if after is None else {"after": after})
            page = listed(client, kind, **query)
            found += [one["id"] for one in page[LISTS[kind]]]
            after = page["next_after"]
            if after is None:
                break
            assert after == found[-1]
        assert found == expected
    # Nothing follows a page that happens to be full at the end.
    assert listed(client, kind, limit=len(everything))["next_after"] is None


@pytest.mark.parametrize("kind", LISTS)
def test_each_filter_leaves_what_it_names(client, records, kind):
    first, second, third = records[kind]
    assert second in ids(client, kind, status=STATUSES[kind])
    assert not {first, third} & set(ids(client, kind, status=STATUSES[kind]))
    assert ids(client, kind, name="listed 1") == [second]
    assert ids(client, kind, name="listed") == []
    assert ids(client, kind, name="listed 1", status=STATUSES[kind], order="desc") == [second]
    assert ids(client, kind, created_after=timestamp(NEW - timedelta(microseconds=1))) == [third]
    assert ids(client, kind, created_after=timestamp(NEW)) == []
    assert ids(client, kind, created_after=timestamp(OLD), order="desc")[-1] != second
    recent = ids(client, kind, created_after=timestamp(utcnow() - timedelta(days=1)))
    assert third in recent
    assert first not in recent
    if kind in ("training", "evaluations"):
        assert ids(client, kind, model_id=2) == [second]
        assert first in ids(client, kind, model_id=1) or first not in ids(client, kind, model_id=2)


def test_a_moment_with_an_offset_is_that_moment(client, records):
    third = records["training"][2]
    moment = (NEW.replace(tzinfo=UTC) - timedelta(microseconds=1)).isoformat().replace("+00:00", "Z")
    assert ids(client, "training", created_after=moment) == [third]
    assert client.get(f"/api/training?created_after={quote('2030-01-01T01:00:00+02:00')}").json()["training_jobs"]


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("order=newest", ("order is 'newest'", "'asc' or 'desc'")),
        ("created_after=yesterday", ("created_after is 'yesterday'", "datetime")),
        (f"created_after={quote('0001-01-01T00:00:00+23:00')}", ("created_after", "between the years")),
        ("name=", ("name is ''", "at least 1 character")),
        ("name=a%00b", ("name", "match pattern")),
        (f"name={'a' * 201}", ("name", "at most 200 characters")),
        ("limit=0", ("limit is '0'", "greater than or equal to 1")),
        ("after=-1", ("after is '-1'",)),
        ("after=99999999999999999999", ("after is '99999999999999999999'",)),
    ],
)
def test_what_no_list_knows_is_refused_with_what_is_accepted(client, kind, query, words):
    response = client.get(f"/api/{kind}?{query}")
    assert response.status_code == 422, response.text
    for word in words:
        assert word in response.json()["error"]


@pytest.mark.parametrize(("kind", "status"), STATUSES.items())
def test_a_status_that_the_records_can_not_have_is_refused_with_those_they_can(client, kind, status):
    response = client.get(f"/api/{kind}?status=done")
    assert response.status_code == 422
    assert "status is 'done'" in response.json()["error"]
    assert f"'{status}'" in response.json()["error"]


def test_a_list_of_more_than_a_thousand_is_cut_and_says_where_it_goes_on(client, database, tiny_model):
    with database.transaction() as session:
        rows = [{"uid": f"many{n}", "name": "one of many", "source": "x", "status": "READY"} for n in range(1100)]
        session.execute(insert(Dataset), [{**row, "settings": {}} for row in rows])
    first = listed(client, "datasets", name="one of many")
    assert len(first["datasets"]) == 1000
    assert first["next_after"] == first["datasets"][-1]["id"]
    rest = listed(client, "datasets", name="one of many", after=first["next_after"])
    assert (len(rest["datasets"]), rest["next_after"]) == (100, None)
    # Whoever asks for more gets it.
    assert len(listed(client, "datasets", name="one of many", limit=5000)["datasets"]) == 1100
