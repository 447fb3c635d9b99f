"""Rows of deleted models and data sets, on both databases: what keeps one, and that its id is never given again."""

from datetime import timedelta
from uuid import uuid4

import pytest

from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.clock import utcnow
from registry.model_names import name_of_base
from registry.repositories.deleted_rows import DeletedRowsRepository
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.models import ModelRepository
from registry.repositories.statistics import StatisticsRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from registry.tables import Dataset, Model, PromotionTest

NOW = utcnow()
OLD, CUTOFF = NOW - timedelta(days=60), NOW - timedelta(days=30)


def add_model(session, *, deleted=OLD, **fields) -> Model:
    made = {"name": "a model", "base_model": "tiny", "status": "AVAILABLE", "deleted_at": deleted, **fields}
    return ModelRepository(session).add(Model(**made))


def add_fine_tune(session, *, name="tiny", run="run", deleted=OLD, **fields) -> Model:
    """A model of a job that is gone, as the second version of its registered model where there is a first."""
    job_id = 10_000 + (session.query(Model).count())
    made = {"registered_model": name, "registered_model_version": "1", "mlflow_run_id": run}
    return add_model(session, deleted=deleted, training_job_id=job_id, parameters=made, **fields)


def add_job(session, **recipe):
    parameters = FinetuneParameters(**{"model_id": 1, "job_name": "a job", **recipe})
    return TrainingJobRepository(session).add(job_of_parameters(parameters))


def add_evaluation(session, **parameters):
    wanted = EvaluationParameters(**{"model_id": 1, **parameters})
    return EvaluationRepository(session).add(evaluation_of_parameters(wanted))


def add_dataset(session, *, deleted=OLD, **settings) -> Dataset:
    made = {"uid": uuid4().hex, "name": "rows", "source": "upload", "status": "READY"}
    dataset = Dataset(**made, settings=settings, deleted_at=deleted)
    dataset.held_out_dataset_id = settings.get("held_out_dataset_id")
    session.add(dataset)
    session.flush()
    return dataset


def add_test(session, champion: int, challenger: int, dataset: int) -> None:
    given = {"number": 1, "metric": "perplexity", "rows": 9, "p_value": 0.5, "alpha": 0.05}
    pair = {"champion_id": champion, "challenger_id": challenger, "dataset_id": dataset}
    evaluations = {"champion_evaluation_id": champion, "challenger_evaluation_id": challenger}
    session.add(PromotionTest(**pair, **evaluations, **given))
    session.flush()


def of_a_job(session, model):
    add_job(session, model_id=model.id)


def made_by_a_job(session, model):
    add_job(session).output_model_id = model.id


def of_an_evaluation(session, model):
    add_evaluation(session, model_id=model.id)


def ancestor_of_a_model(session, model):
    add_model(session, deleted=None, parent_model_id=add_model(session, parent_model_id=model.id).id)


def ancestor_of_an_evaluated_model(session, model):
    of_an_evaluation(session, add_model(session, parent_model_id=model.id))


def champion_of_a_test(session, model):
    add_test(session, model.id, add_model(session, deleted=None).id, 1)


def young(session, model):
    model.deleted_at = NOW


def there(session, model):
    model.deleted_at = None


def with_a_version(session, model):
    model.parameters = {"mlflow_run_id": "a registered run"}


KEEPERS = [
    of_a_job,
    made_by_a_job,
    of_an_evaluation,
    ancestor_of_a_model,
    ancestor_of_an_evaluated_model,
    champion_of_a_test,
    young,
    there,
    with_a_version,
]


def free_models(database) -> list[int]:
    with database.reading() as session:
        return DeletedRowsRepository(session).models(CUTOFF, {"a registered run"})


@pytest.mark.parametrize("keeper", KEEPERS, ids=lambda keeper: keeper.__name__)
def test_a_model_that_something_needs_stays(database, keeper):
    with database.transaction() as session:
        needed, other = add_model(session), add_model(session)
        keeper(session, needed)
    assert free_models(database) == [other.id]
    with database.reading() as session:
        asked = DeletedRowsRepository(session).models(CUTOFF, {"a registered run"}, [needed.id])
    assert asked == []


def test_a_model_that_nothing_needs_goes_with_its_ancestors_and_tests(database):
    with database.transaction() as session:
        kept = add_model(session, deleted=None)
        parent = add_model(session)
        child = add_model(session, parent_model_id=parent.id)
        grandchild = add_model(session, parent_model_id=child.id)
        add_test(session, kept.id, grandchild.id, 1)
        add_test(session, child.id, parent.id, 1)
        before = StatisticsRepository(session).by_status()["models"]
    assert free_models(database) == [grandchild.id, child.id, parent.id]
    with database.transaction() as session:
        DeletedRowsRepository(session).remove_models(free_models(database))
    with database.transaction() as session:
        assert DeletedRowsRepository(session).models(CUTOFF, ()) == []
        assert session.query(PromotionTest).count() == 0
        counts = StatisticsRepository(session).by_status()["models"]
        assert (before["DELETED"], counts.get("DELETED", 0)) == (3, 0)
        # The number of a model that was there is nobody else's.
        assert add_model(session).id > grandchild.id


def test_who_was_registered_first_stays_as_its_name_is_known_by_it(database):
    with database.transaction() as session:
        first = add_fine_tune(session, name="an-older-name", run="1")
        others = [add_fine_tune(session, name="an-older-name", run=str(n)) for n in (2, 3)]
        # Of a second base, which an older version let have the same name, and whose next one has its own.
        add_fine_tune(session, name="an-older-name", base_model="other", run="4")
        own = add_fine_tune(session, name="other", base_model="other", run="5")
        names = [name_of_base(session, base) for base in ("tiny", "other")]
    assert free_models(database) == [one.id for one in reversed(others)]
    with database.transaction() as session:
        DeletedRowsRepository(session).remove_models(free_models(database))
        assert [name_of_base(session, base) for base in ("tiny", "other")] == names
        assert ModelRepository(session).first_base_of("an-older-name") == "tiny"
        assert {one.id for one in session.query(Model) if one.parameters} >= {first.id, own.id}


def named_by_a_job(session, dataset):
    add_job(session, dataset_id=dataset.id)


def named_by_a_job_to_hold_out(session, dataset):
    add_job(session, held_out_dataset_id=dataset.id)


def named_by_an_evaluation(session, dataset):
    add_evaluation(session, dataset_id=dataset.id)


def of_a_deleted_model(session, dataset):
    add_model(session, parameters={"recipe": {"dataset_id": dataset.id, "held_out_dataset_id": None}})


def held_out_by_a_dataset(session, dataset):
    add_dataset(session, deleted=None, held_out_dataset_id=dataset.id)


def basis_of_a_test(session, dataset):
    add_test(session, 1, 2, dataset.id)


DATASET_KEEPERS = [
    named_by_a_job,
    named_by_a_job_to_hold_out,
    named_by_an_evaluation,
    of_a_deleted_model,
    held_out_by_a_dataset,
    basis_of_a_test,
    young,
    there,
]


@pytest.mark.parametrize("keeper", DATASET_KEEPERS, ids=lambda keeper: keeper.__name__)
def test_a_dataset_that_something_names_stays(database, keeper):
    with database.transaction() as session:
        needed, other = add_dataset(session), add_dataset(session)
        keeper(session, needed)
    with database.transaction() as session:
        rows = DeletedRowsRepository(session)
        assert rows.datasets(CUTOFF) == [other.id]
        assert rows.remove_datasets([other.id]) == 1
        assert rows.remove_datasets([other.id]) == 0
    with database.transaction() as session:
        assert session.get(Dataset, needed.id) is not None
        assert add_dataset(session).id > other.id


def test_a_dataset_that_is_there_is_not_removed(database):
    with database.transaction() as session:
        dataset = add_dataset(session, deleted=None)
        assert DeletedRowsRepository(session).remove_datasets([dataset.id]) == 0


def test_the_number_of_a_deleted_job_or_evaluation_is_nobody_elses(database):
    """Its events and folder may still be there, and would be the next one's."""
    with database.transaction() as session:
        job, evaluation = add_job(session), add_evaluation(session)
    with database.transaction() as session:
        jobs, evaluations = TrainingJobRepository(session), EvaluationRepository(session)
        jobs.remove(jobs.require(job.id))
        evaluations.remove(evaluations.require(evaluation.id))
    with database.transaction() as session:
        assert add_job(session).id > job.id
        assert add_evaluation(session).id > evaluation.id
