"""Who may be champion when people have deleted, renamed and made again what MLflow's registry had; a real server."""

import hashlib
import os
import subprocess
import sys
import time
from uuid import uuid4

import httpx
import numpy as np
import pytest
from mlflow import MlflowClient
from sqlalchemy import select

from configs.recipe import EvaluationParameters, FinetuneParameters, PromotionSettings
from configs.settings import Settings
from registry.champions import CHAMPION, Champions
from registry.database import Database, upgrade
from registry.repositories.datasets import DatasetRepository
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from registry.tables import Dataset, Model, PromotionTest
from tasks.data.examples import Example
from tasks.data.store import StoreWriter
from tasks.metrics.alpha_spending import alpha_of_test
from tasks.metrics.bootstrap import confidence_intervals
from tasks.metrics.comparison import compare
from tasks.metrics.promotion import NotBetter, PromotionImpossible, dismiss, promote
from tasks.metrics.sample_file import EvaluatedSample, sample_file, write_samples
from tasks.metrics.samples import SampleScores, corpus_metrics
from tests.e2e.platform_process import free_ports

pytestmark = pytest.mark.filterwarnings("default")
ANY = PromotionSettings()
FORCED = PromotionSettings(force=True)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("platform")
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder)]
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *store],
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, (folder / "mlflow.log").read_text()
            time.sleep(0.2)
        settings = Settings(data_dir=folder, mlflow_port=port)
        upgrade(settings.platform_database_url)
        yield settings
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def client(settings):
    return MlflowClient(settings.mlflow_url)


@pytest.fixture(scope="module")
def database(settings):
    database = Database(settings.platform_database_url)
    yield database
    database.close()


class Registrar:
    """Registers models as finished jobs do, but for what they were trained to."""

    def __init__(self, client: MlflowClient, settings: Settings, database: Database) -> None:
        self.client, self.settings, self.database = client, settings, database

    def register(self, name: str, base: str | None = None, parent_model_id: int | None = None, **recipe) -> int:
        """Return the id of a new model that is a version of the registered model `name`."""
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        run = self.client.create_run("0").info.run_id
        with self.database.transaction() as session:
            models = ModelRepository(session)
            parent = models.base_of_name(base or name) or models.add(
                Model(name=base or name, base_model=base or name, status="AVAILABLE")
            )
            job_id = TrainingJobRepository(session).add(job_of_parameters(FinetuneParameters(model_id=1))).id
            tags = {"training_job_id": str(job_id)}
            version = self.client.create_model_version(name, f"runs:/{run}/model", run, tags)
            parameters = {
                "registered_model": name,
                "registered_model_version": str(version.version),
                "mlflow_run_id": run,
                "recipe": recipe,
            }
            model = Model(
                name=f"{name} {version.version}",
                base_model=base or name,
                status="AVAILABLE",
                parameters=parameters,
                training_job_id=job_id,
                # Of another fine-tune, or else of the base.
                adapter=f"adapter {job_id}",
                parent_model_id=parent_model_id or parent.id,
            )
            return models.add(model).id

    def base_of(self, model_id: int) -> int:
        with self.database.reading() as session:
            models = ModelRepository(session)
            return models.lineage(models.get(model_id))[-1].id

    def evaluate(self, model_id: int, scores, dataset_id: int = 1) -> int:
        """Store a completed evaluation of these samples; return its id."""
        with self.database.transaction() as session:
            evaluations = EvaluationRepository(session)
            parameters = EvaluationParameters(model_id=model_id, dataset_id=dataset_id, metrics=["perplexity"])
            evaluation = evaluations.add(evaluation_of_parameters(parameters))
            evaluations.record_metrics(evaluation, corpus_metrics(scores), confidence_intervals(scores))
            samples = [EvaluatedSample("What?", None, "That.", one) for one in scores]
            write_samples(samples, sample_file(self.settings.evaluations_dir, evaluation.uid))
            return evaluation.id

    def champion(self, name: str) -> str:
        return str(self.client.get_model_version_by_alias(name, CHAMPION).version)


@pytest.fixture(scope="module")
def registrar(client, settings, database):
    return Registrar(client, settings, database)


def draw(nats_a_token: float, rows: int = 40, seed: int = 1):
    """Samples of rows with the same ids and tokens, whatever the seed of the losses."""
    ids = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(rows)]
    losses = np.random.default_rng(seed).gamma(4, nats_a_token / 4, size=(rows, 20)).sum(axis=1)
    return [SampleScores(one, float(nats), 20) for one, nats in zip(ids, losses, strict=True)]


def test_a_model_whose_version_was_deleted_takes_no_other_models_version(settings, database, registrar):
    old = registrar.register("deleted")
    registrar.client.delete_registered_model("deleted")
    new = registrar.register("deleted")  # version 1 again
    with pytest.raises(PromotionImpossible, match="deleted in MLflow"):
        promote(settings, database, old, ANY)
    assert promote(settings, database, new, FORCED).contest.version.version == "1"
    with pytest.raises(PromotionImpossible, match="deleted in MLflow"):
        promote(settings, database, old, FORCED)
    assert (
        Champions(settings.mlflow_url).of("deleted").run_id == registrar.client.get_model_version("deleted", "1").run_id
    )


def test_a_version_that_was_deleted_can_not_be_champion(settings, database, registrar):
    first = registrar.register("version-deleted")
    registrar.register("version-deleted")
    registrar.client.delete_model_version("version-deleted", "1")
    with pytest.raises(PromotionImpossible, match="Version 1"):
        promote(settings, database, first, ANY)


def test_a_registered_model_that_was_renamed_is_found(settings, database, registrar):
    model = registrar.register("before")
    registrar.client.rename_registered_model("before", "after")
    assert promote(settings, database, model, FORCED).contest.version.name == "after"
    assert registrar.champion("after") == "1"


def test_a_deleted_champion_does_not_block_the_next_one(settings, database, registrar):
    first, second = registrar.register("contested"), registrar.register("contested")
    promote(settings, database, first, FORCED)
    with pytest.raises(NotBetter):
        promote(settings, database, second, ANY)
    with database.transaction() as session:
        models = ModelRepository(session)
        champion = models.get(first)
        models.remove(champion)
    # MLflow was away when it was deleted: the alias is still its. Now the base has to be beaten.
    registrar.evaluate(registrar.base_of(second), draw(2.0))
    registrar.evaluate(second, draw(1.0))
    promotion = promote(settings, database, second, ANY)
    assert (promotion.contest.champion.id, promotion.forced) == (first, False)
    assert registrar.champion("contested") == "2"


def test_deleting_the_champion_takes_the_alias_and_deleting_another_does_not(settings, database, registrar):
    first, second = registrar.register("dismissed"), registrar.register("dismissed")
    promote(settings, database, first, FORCED)
    with database.reading() as session:
        models = ModelRepository(session)
        champion, other = models.get(first), models.get(second)
    assert dismiss(settings, other) is None
    assert registrar.champion("dismissed") == "1"
    assert dismiss(settings, champion) == "dismissed"
    assert Champions(settings.mlflow_url).of("dismissed") is None
    assert dismiss(settings, champion) is None
    promote(settings, database, second, FORCED)
    assert registrar.champion("dismissed") == "2"


def test_of_two_bases_that_an_older_version_let_share_a_name_the_first_one_keeps_it(settings, database, registrar):
    mine, others = registrar.register("shared", "tiny/shared"), registrar.register("shared", "other/shared")
    promote(settings, database, mine, FORCED)
    with pytest.raises(PromotionImpossible, match="two bases share"):
        promote(settings, database, others, FORCED)
    assert registrar.champion("shared") == "1"


def test_the_first_champion_has_to_beat_its_base(settings, database, registrar):
    worse, better = registrar.register("first"), registrar.register("first")
    base = registrar.base_of(worse)
    with pytest.raises(NotBetter, match="its base, which a first champion has to beat, model") as unknown:
        promote(settings, database, better, ANY)
    assert unknown.value.figures is None
    of_base = registrar.evaluate(base, draw(2.0))
    registrar.evaluate(worse, draw(2.0, seed=2))
    of_better = registrar.evaluate(better, draw(1.0))
    with pytest.raises(NotBetter, match="is not better than its base"):
        promote(settings, database, worse, ANY)
    assert Champions(settings.mlflow_url).of("first") is None
    promotion = promote(settings, database, better, ANY)
    assert (promotion.forced, promotion.figures.evaluations) == (False, (of_base, of_better))
    assert (promotion.figures.better, promotion.figures.left_out_rows) == (True, 0)
    assert registrar.champion("first") == "2"


def test_force_makes_a_first_champion_that_is_not_better(settings, database, registrar):
    model = registrar.register("first-forced")
    promotion = promote(settings, database, model, FORCED)
    assert (promotion.forced, promotion.figures) == (True, None)
    assert promotion.sentence == "Version 1 of first-forced is the champion now, by force."


def test_a_test_of_other_evaluations_has_to_be_surer_and_the_same_evaluations_are_the_same_test(
    settings, database, registrar
):
    model = registrar.register("repeated")
    registrar.evaluate(registrar.base_of(model), draw(2.0))
    tests: list[tuple[int, float]] = []
    for seed in (2, 2, 3, 4):
        if seed != 2 or not tests:
            registrar.evaluate(model, draw(2.0, seed=seed))
        with pytest.raises(NotBetter) as kept:
            promote(settings, database, model, ANY)
        tests.append((kept.value.figures.test, kept.value.figures.alpha))
    assert tests == [(1, alpha_of_test(1)), (1, alpha_of_test(1)), (2, alpha_of_test(2)), (3, alpha_of_test(3))]
    assert f"in test 3 of the two must be below {alpha_of_test(3):.2g}" in str(kept.value)
    with database.reading() as session:
        recorded = session.scalars(select(PromotionTest).where(PromotionTest.challenger_id == model)).all()
        assert [(one.number, one.alpha, one.rows) for one in recorded] == [(*test, 40) for test in tests[1:]]


def test_a_difference_that_would_do_at_first_does_not_when_it_is_the_seventh_test(settings, database, registrar):
    """Of models that are equally good, the one that is tried often enough looks better some time."""
    model = registrar.register("lucky")
    registrar.evaluate(registrar.base_of(model), draw(2.0))
    for seed in range(2, 8):
        registrar.evaluate(model, draw(2.2, seed=seed))
        with pytest.raises(NotBetter):
            promote(settings, database, model, ANY)
    # As large a difference as a single test finds significant at 0.05, and no larger.
    lucky = next(
        scores
        for scores in (draw(2.0 - 0.01 * step) for step in range(1, 100))
        if 0.002 < compare(draw(2.0, seed=99), scores)["perplexity"].p_value < 0.03
    )
    registrar.evaluate(registrar.base_of(model), draw(2.0, seed=99))
    registrar.evaluate(model, lucky)
    with pytest.raises(NotBetter) as kept:
        promote(settings, database, model, ANY)
    figures = kept.value.figures
    assert figures.test == 7
    assert figures.alpha < figures.p_value < 0.05


def dataset_of(settings, database, texts) -> int:
    """A stored data set with a held-out fraction of one half."""
    with StoreWriter(settings.datasets_dir) as writer:
        for number, text in enumerate(texts):
            writer.add(number, Example.question(text, "answer"))
        stored = writer.finish({})
    with database.transaction() as session:
        dataset = Dataset(
            name="rows",
            uid=uuid4().hex,
            source="upload",
            status="READY",
            settings={"held_out_fraction": 0.5},
            content_hash=stored.fingerprint,
        )
        return DatasetRepository(session).add(dataset).id


def test_rows_that_an_ancestor_was_trained_on_are_no_evidence(settings, database, registrar):
    """A fine-tune of a fine-tune that has seen some of the rows on which it is compared."""
    texts = [f"question {number}" for number in range(60)]
    hashes = [Example.question(text, "answer").content_hash for text in texts]
    half = 2**255
    seen = {one for one in hashes if int(one, 16) >= half}
    dataset_id = dataset_of(settings, database, texts)
    parent = registrar.register("leaky", dataset_id=dataset_id)
    child = registrar.register("leaky", parent_model_id=parent, dataset_id=1)
    # Where it has seen the answers it is far better, elsewhere it is not.
    of_base = [SampleScores(one, 40.0 + number % 7, 20) for number, one in enumerate(hashes)]
    of_child = [
        SampleScores(one, 10.0 if one in seen else 40.0 + (number + 3) % 7, 20) for number, one in enumerate(hashes)
    ]
    registrar.evaluate(registrar.base_of(child), of_base, dataset_id)
    registrar.evaluate(child, of_child, dataset_id)
    with pytest.raises(NotBetter) as kept:
        promote(settings, database, child, ANY)
    figures = kept.value.figures
    assert (figures.rows, figures.left_out_rows, figures.unknown_datasets) == (60 - len(seen), len(seen), ())
    assert f"{len(seen)} rows that one of them was trained on are left out" in str(kept.value)


def test_no_row_left_is_no_evidence(settings, database, registrar):
    texts = [f"other question {number}" for number in range(40)]
    hashes = [Example.question(text, "answer").content_hash for text in texts]
    seen = [one for one in hashes if int(one, 16) >= 2**255]
    model = registrar.register("all-seen", dataset_id=dataset_of(settings, database, texts))
    registrar.evaluate(registrar.base_of(model), [SampleScores(one, 40.0, 20) for one in seen])
    registrar.evaluate(model, [SampleScores(one, 10.0, 20) for one in seen])
    with pytest.raises(NotBetter, match="neither was trained on") as kept:
        promote(settings, database, model, ANY)
    assert kept.value.figures is None


def test_a_data_set_that_is_gone_is_named(settings, database, registrar):
    model = registrar.register("forgotten", dataset_id=12345)
    registrar.evaluate(registrar.base_of(model), draw(2.0))
    registrar.evaluate(model, draw(1.0))
    assert promote(settings, database, model, ANY).figures.unknown_datasets == (12345,)


def test_the_shares_of_all_tests_are_at_most_one_level():
    shares = [alpha_of_test(number) for number in range(1, 10_000)]
    assert 0.0499 < sum(shares) < 0.05
    assert shares == sorted(shares, reverse=True)
