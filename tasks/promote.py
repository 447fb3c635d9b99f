"""The `promote` tasks: who is meant, what has to be evaluated first, and the decision."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from filelock import Timeout
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from configs.recipe import LONGEST_NAME, EvaluationParameters, PromotionParameters, PromotionSettings
from configs.settings import get_settings
from registry.database import Database
from registry.repositories.evaluations import evaluated_length, evaluated_rows, trained_format
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from tasks.evaluate import EvaluationContext
from tasks.job.flow_run import DATABASE_PATIENCE_SECONDS
from tasks.metrics.promotion import NotBetter, PromotionImpossible, enter, evidence
from tasks.metrics.promotion import promote as hold_contest


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it ended, in a sentence with the figures."""

    promoted: bool
    sentence: str


@task(cache_policy=NO_CACHE, persist_result=False)
def resolve(promotion: PromotionParameters) -> int:
    """Return the id of the model that is meant; raises `PromotionImpossible` if the base has no fine-tune."""
    if promotion.model_id is not None:
        return promotion.model_id
    assert promotion.base_model is not None
    with _opened() as database, database.reading() as session:
        newest = ModelRepository(session).newest_trained(promotion.base_model)
    if newest is None:
        raise PromotionImpossible(f"No model has been trained on {promotion.base_model} yet.")
    return newest.id


@task(cache_policy=NO_CACHE, persist_result=False)
def find_missing_evaluations(promotion: PromotionParameters, model_id: int) -> list[EvaluationParameters]:
    """Return the evaluations to make before model and champion can be compared; none if they can be already."""
    settings = get_settings()
    with _opened() as database, database.reading() as session:
        contest = enter(settings, session, model_id)
        opponent = contest.opponent
        if contest.decided or opponent is None or opponent.deleted_at is not None:
            return []
        if evidence(session, settings, contest, promotion) is not None:
            return []
        dataset_id, held_out_dataset_id = evaluated_rows(promotion.dataset_id, None, contest.challenger)
        return [
            EvaluationParameters(
                model_id=model.id,
                eval_name=f"Promotion of model {model_id}: {model.name}"[:LONGEST_NAME],
                dataset_id=dataset_id,
                held_out_dataset_id=held_out_dataset_id,
                # The challenger's own, of both: what each learned at another length is not about the same tokens.
                max_seq_length=evaluated_length(None, contest.challenger),
                max_samples=promotion.max_samples,
                metrics=[promotion.metric],
                # A base in the format that the challenger learned; a fine-tune has its own.
                **(trained_format(contest.challenger).model_dump() if model.is_base else {}),
            )
            for model in (opponent, contest.challenger)
        ]


@task(cache_policy=NO_CACHE, persist_result=False)
def decide(promotion: PromotionParameters, model_id: int) -> Verdict:
    """Move the alias if the model is better (or is forced), and show the figures beside the run."""
    try:
        with _opened() as database:
            verdict = Verdict(True, hold_contest(get_settings(), database, model_id, promotion).sentence)
    except NotBetter as kept:
        verdict = Verdict(False, str(kept))
    get_run_logger().info(verdict.sentence)
    create_markdown_artifact(verdict.sentence, key=f"promotion-of-model-{model_id}")
    return verdict


@task(cache_policy=NO_CACHE, persist_result=False)
def consider_first_champion(context: EvaluationContext) -> None:
    """Make a job's model the champion of its base if it has none, and the evaluations that the job asked for allow it.

    An evaluation is none the worse for what keeps a promotion from being held: it is logged.
    """
    with context.database.reading() as session:
        job = TrainingJobRepository(session).of_evaluation(context.evaluation_id)
        if job is None or job.output_model_id is None:
            return
        model_id = job.output_model_id
    try:
        with context.database.reading() as session:
            if enter(context.settings, session, model_id).reigning is not None:
                return
        wanted = PromotionSettings(reason="Its base has no champion yet")
        context.logger.info(hold_contest(context.settings, context.database, model_id, wanted).sentence)
    except (NotBetter, PromotionImpossible) as kept:
        context.logger.info(str(kept))
    except (httpx.HTTPError, Timeout) as error:
        context.logger.warning("No promotion was held: %s", error)


@contextmanager
def _opened() -> Iterator[Database]:
    database = Database(get_settings().platform_database_url, DATABASE_PATIENCE_SECONDS)
    try:
        yield database
    finally:
        database.close()
