"""Promotion: MLflow's alias `champion` moves to a model that is better than the present champion, beyond noise.

The first champion has to be better than its base. Rows that either side was trained on are no evidence, and a test that
is repeated has to be surer each time.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from filelock import FileLock
from sqlalchemy.orm import Session

from configs.recipe import MetricName, PromotionSettings
from configs.settings import Settings
from registry.champions import Champions, RegisteredVersion
from registry.clock import timestamp, utcnow
from registry.database import Database
from registry.repositories.evaluations import (
    EvaluationRepository,
    evaluated_rows,
    measured_length,
    measured_new_tokens,
    text_tokenizer,
)
from registry.repositories.models import ModelRepository
from registry.repositories.promotion_tests import PromotionTestRepository
from registry.tables import Evaluation, Model, PromotionTest
from tasks.metrics.alpha_spending import alpha_of_test, shuffles_for
from tasks.metrics.comparison import common_rows, compare
from tasks.metrics.errors import MetricError
from tasks.metrics.sample_file import read_samples, sample_file
from tasks.metrics.samples import corpus_metrics
from tasks.metrics.trained_rows import trained_among

LONGEST_WAIT_SECONDS = 120.0
"""For another promotion, which takes seconds; its process may have been stopped."""


class PromotionImpossible(Exception):
    """The model is none that can be champion: it does not exist, or no training made it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How the challenger did against the champion in one metric, over the rows that both were evaluated on.

    Where there is no champion its part is the base's. `evaluations` and `values` go champion, challenger; `difference`
    is the challenger's value less the champion's, with its 95% interval and two-sided p-value
    (`tasks.metrics.comparison`).
    """

    metric: MetricName
    evaluations: tuple[int, int]
    rows: int
    values: tuple[float, float]
    difference: float
    ci95: tuple[float, float] | None
    p_value: float | None
    better: bool
    """Whether the challenger is better, beyond noise: the interval is on its side, and the p-value below `alpha`."""
    left_out_rows: int
    """Rows that both were evaluated on and that are no evidence, as one of them, or a model it was made from, was
    trained on them."""
    test: int
    """Which test of these two models on this data set it is, from 1; the same evaluations are the same test."""
    alpha: float
    """What the p-value must be below: `tasks.metrics.alpha_spending`."""
    unknown_datasets: tuple[int, ...]
    """Data sets that one of them was trained on and that are gone: their rows may be among those compared."""

    def __str__(self) -> str:
        interval = "none for one row" if self.ci95 is None else "{:.4g} to {:.4g}".format(*self.ci95)
        p_value = "unknown" if self.p_value is None else format(self.p_value, ".2g")
        return (
            f"{self.metric} {self.values[1]:.4g} against {self.values[0]:.4g} over {self.rows} rows, difference "
            f"{self.difference:.4g} (95% interval {interval}, p {p_value}, which in test {self.test} of the two "
            f"must be below {self.alpha:.2g})"
            + f"; {self.left_out_rows} rows that one of them was trained on are left out"
            * (self.left_out_rows > 0)
        )


@dataclass(frozen=True, slots=True)
class Contest:
    """A model that would be champion, and the champion it has to beat; both are versions of one registered model."""

    challenger: Model
    version: RegisteredVersion
    champion: Model | None
    """None where nobody reigns, or where the version was not registered by this platform."""
    reigning: RegisteredVersion | None
    base: Model
    """What the challenger's first ancestor was, as it came: what a first champion has to beat."""

    @property
    def decided(self) -> bool:
        """Whether the model is the champion already."""
        return self.reigning == self.version

    @property
    def opponent(self) -> Model | None:
        """Who has to be beaten: the champion, or the base if nobody reigns, or a model that was deleted.

        None for a champion that was not registered by this platform: nothing is known of it.
        """
        if self.reigning is None or (self.champion is not None and self.champion.deleted_at is not None):
            return self.base
        return self.champion


@dataclass(frozen=True, slots=True)
class Promotion:
    """How a contest ended that made the challenger champion, or found that it was."""

    contest: Contest
    figures: Figures | None
    """None for who is champion already, or where who was overruled had not been evaluated on the same rows."""
    forced: bool
    """Whether the champion, or the base, was overruled: the figures did not speak for the challenger."""

    @property
    def sentence(self) -> str:
        """What happened, with the figures."""
        version, reigning = self.contest.version, self.contest.reigning
        if reigning == version:
            return f"Version {version.version} of {version.name} is the champion already."
        figures = f": {self.figures}" if self.figures is not None else ""
        before = f", after version {reigning.version}" if reigning is not None else ""
        force = ", by force" * self.forced
        return f"Version {version.version} of {version.name} is the champion now{before}{force}{figures}."


class NotBetter(Exception):
    """The challenger is not better beyond noise, or that is not known; the champion stays."""

    def __init__(self, message: str, contest: Contest, figures: Figures | None) -> None:
        super().__init__(message)
        self.contest = contest
        self.figures = figures


def enter(settings: Settings, session: Session, model_id: int) -> Contest:
    """Return who would have to be beaten; raises `PromotionImpossible`, and `httpx.HTTPError` if MLflow is away."""
    models = ModelRepository(session)
    model = models.get(model_id)
    if model is None:
        raise PromotionImpossible(f"There is no model with the id {model_id}.")
    if model.parameters is None:
        raise PromotionImpossible(
            f"Model {model_id} ({model.name}) was made by no training job, so it is not in MLflow's registry; only "
            "fine-tuned models can be champion."
        )
    champions = Champions(settings.mlflow_url, settings.services_login)
    version = _own_version(champions, model)
    owner = models.first_base_of(model.parameters["registered_model"])
    if owner != model.base_model:
        raise PromotionImpossible(
            f"Model {model_id} ({model.name}) is a version of {version.name}, which an older version of the platform "
            f"let two bases share: its champion is one of {owner}. Fine-tune {model.base_model} again, which gives it "
            "a registered model of its own."
        )
    reigning = champions.of(version.name)
    return Contest(model, version, _model_of(models, reigning), reigning, _base_of(models, model))


def _base_of(models: ModelRepository, model: Model) -> Model:
    """Return the base that a model was made from; where that entry was deleted, another one of the same weights."""
    first = models.lineage(model)[-1]
    return first if first.deleted_at is None else models.base_of_name(model.base_model) or first


def _own_version(champions: Champions, model: Model) -> RegisteredVersion:
    """Return the model's own version as MLflow has it now; raises `PromotionImpossible` if it was deleted there."""
    assert model.parameters is not None
    name, number = model.parameters["registered_model"], model.parameters["registered_model_version"]
    version = champions.find(name, number, model.parameters["mlflow_run_id"])
    if version is None:
        raise PromotionImpossible(
            f"Version {number} of the registered model {name}, which model {model.id} ({model.name}) was, has been "
            "deleted in MLflow (one of that number may be another model's): it can be used and evaluated here, but not "
            "be champion; train it again, in a new job, to register it anew."
        )
    return version


def _model_of(models: ModelRepository, version: RegisteredVersion | None) -> Model | None:
    """Return the model, deleted or not, that a version is; None if it was not registered here."""
    job_id = version.tags.get("training_job_id") if version is not None else None
    model = models.of_job(int(job_id)) if job_id is not None else None
    # Tags can be copied by hand, and another platform's jobs have the same numbers: the run is the version's own.
    if version is None or model is None or model.parameters is None:
        return None
    return model if model.parameters["mlflow_run_id"] == version.run_id else None


def dismiss(settings: Settings, model: Model) -> str | None:
    """Take the alias from a model that is deleted; return the registered model that has no champion now, if any.

    Raises `httpx.HTTPError` if MLflow is away.
    """
    if model.parameters is None:
        return None
    champions = Champions(settings.mlflow_url, settings.services_login)
    try:
        version = _own_version(champions, model)
    except PromotionImpossible:
        return None
    return version.name if champions.dethrone(version) else None


def promote(settings: Settings, database: Database, model_id: int, wanted: PromotionSettings) -> Promotion:
    """Make the model champion of its registered model, if the evaluations that there are say that it is better.

    Raises `PromotionImpossible`, `NotBetter` (unless forced), `httpx.HTTPError` if MLflow is away, and
    `filelock.Timeout` if another promotion does not end.
    """
    # Of two promotions at once the second one meets the first one's champion.
    with FileLock(settings.data_dir / "promotion.lock", timeout=LONGEST_WAIT_SECONDS):
        with database.reading() as session:
            contest = enter(settings, session, model_id)
            pair = evidence(session, settings, contest, wanted)
        if contest.decided:
            return Promotion(contest, None, forced=False)
        figures = _figures(settings, database, contest, pair, wanted.metric) if pair is not None else None
        won = figures is not None and figures.better
        if not won and not wanted.force:
            raise NotBetter(_why_not(contest, figures, wanted), contest, figures)
        promotion = Promotion(contest, figures, forced=not won)
        _crown(Champions(settings.mlflow_url, settings.services_login), promotion, wanted)
        return promotion


def evidence(
    session: Session, settings: Settings, contest: Contest, wanted: PromotionSettings
) -> tuple[Evaluation, Evaluation] | None:
    """Return the newest evaluations of who is to be beaten and of the challenger that can be compared in the metric.

    None if none can.
    """
    if contest.opponent is None:
        return None
    evaluations = EvaluationRepository(session)
    sides = [
        [one for one in evaluations.of_model(model.id) if _speaks(one, settings, wanted.metric)]
        for model in (contest.opponent, contest.challenger)
    ]
    for of_challenger in sides[1]:
        basis = _basis(of_challenger, contest.challenger, wanted.metric)
        if wanted.dataset_id not in (None, basis[0]):
            continue
        for of_champion in sides[0]:
            if _basis(of_champion, contest.opponent, wanted.metric) == basis:
                return of_champion, of_challenger
    return None


def _speaks(evaluation: Evaluation, settings: Settings, metric: MetricName) -> bool:
    """Return whether the evaluation has the metric, and the samples that an interval needs."""
    # Not by its status, which says so a second later than its numbers are there.
    return getattr(evaluation, metric) is not None and sample_file(settings.evaluations_dir, evaluation.uid).exists()


def _basis(evaluation: Evaluation, model: Model, metric: MetricName) -> tuple[Any, ...]:
    """Return what two evaluations must have in common: data set, row length, and how responses were made and split."""
    named = evaluation.parameters
    dataset_id, held_out_dataset_id = evaluated_rows(named.get("dataset_id"), named.get("held_out_dataset_id"), model)
    of_rows = (held_out_dataset_id or dataset_id, measured_length(evaluation))
    if metric == "perplexity":
        return of_rows
    return (*of_rows, measured_new_tokens(evaluation), text_tokenizer(evaluation))


def _figures(
    settings: Settings, database: Database, contest: Contest, pair: tuple[Evaluation, Evaluation], metric: MetricName
) -> Figures | None:
    """Test the metric, and record that it was; None if it can't be compared, as without common rows.

    Rows that either side was trained on are left out: who has learned the answers is not better for knowing them.
    """
    assert contest.opponent is not None
    samples = [
        [sample.scores for sample in read_samples(sample_file(settings.evaluations_dir, one.uid))] for one in pair
    ]
    common = common_rows(*samples)
    with database.reading() as session:
        sides = (contest.opponent, contest.challenger)
        trained = trained_among(session, settings, sides, {sample.id for sample in common[0]})
        planned = _planned_test(session, contest, pair, metric)
    of_champion, of_challenger = ([one for one in side if one.id not in trained.hashes] for side in common)
    try:
        difference = compare(of_champion, of_challenger, shuffles=shuffles_for(planned.alpha))[metric]
        values = (corpus_metrics(of_champion)[metric], corpus_metrics(of_challenger)[metric])
    except (MetricError, KeyError):
        return None
    if planned.id is None:
        planned.rows, planned.p_value = len(of_champion), difference.p_value
        with database.transaction() as session:
            PromotionTestRepository(session).add(planned)
    sure = difference.p_value is not None and difference.p_value < planned.alpha
    return Figures(
        metric=metric,
        evaluations=(pair[0].id, pair[1].id),
        rows=len(of_champion),
        values=values,
        difference=difference.value,
        ci95=difference.interval,
        p_value=difference.p_value,
        better=difference.better == "b" and sure,
        left_out_rows=len(common[0]) - len(of_champion),
        test=planned.number,
        alpha=planned.alpha,
        unknown_datasets=trained.unknown_datasets,
    )


def _planned_test(
    session: Session, contest: Contest, pair: tuple[Evaluation, Evaluation], metric: MetricName
) -> PromotionTest:
    """Return the test of these evaluations: the recorded one, as the same numbers say nothing new, or the next."""
    assert contest.opponent is not None
    tests, evaluations = PromotionTestRepository(session), (pair[0].id, pair[1].id)
    recorded = tests.of_evaluations(metric, evaluations)
    if recorded is not None:
        return recorded
    dataset_id = _basis(pair[1], contest.challenger, metric)[0]
    number = tests.next_number(contest.opponent.id, contest.challenger.id, dataset_id)
    return PromotionTest(
        champion_id=contest.opponent.id,
        challenger_id=contest.challenger.id,
        dataset_id=dataset_id,
        number=number,
        metric=metric,
        champion_evaluation_id=evaluations[0],
        challenger_evaluation_id=evaluations[1],
        alpha=alpha_of_test(number),
    )


def _why_not(contest: Contest, figures: Figures | None, wanted: PromotionSettings) -> str:
    challenger = f"Model {contest.challenger.id} ({contest.challenger.name})"
    if contest.opponent is None:
        assert contest.reigning is not None
        return (
            f"The champion, version {contest.reigning.version} of {contest.reigning.name}, was not trained here, so "
            f"nothing is known of it to compare {challenger} with; force overrules it."
        )
    role = "the champion" if contest.opponent is contest.champion else "its base, which a first champion has to beat"
    champion = f"{role}, model {contest.opponent.id} ({contest.opponent.name})"
    if figures is None:
        rows = f"data set {wanted.dataset_id}" if wanted.dataset_id is not None else "the same data set"
        return (
            f"{challenger} and {champion}, have no evaluations over the same rows of {rows} that have "
            f"{wanted.metric}, and that neither was trained on; evaluate both first (POST /api/models/ID/evaluate with "
            "the same dataset_id and max_seq_length)."
        )
    return f"{challenger} is not better than {champion}, beyond noise: {figures}; force overrules it."


def _crown(champions: Champions, promotion: Promotion, wanted: PromotionSettings) -> None:
    """Move the alias, once the version says why."""
    contest = promotion.contest
    record: dict[str, Any] = {
        "promoted_at": timestamp(utcnow()),
        "promoted_over_version": contest.reigning.version if contest.reigning else "none",
        "promotion_forced": str(promotion.forced).lower(),
        "promotion_figures": json.dumps(asdict(promotion.figures)) if promotion.figures else "none",
        "promotion_reason": wanted.reason or "none",
    }
    champions.tag(contest.version, record)
    if promotion.forced and contest.reigning is not None:
        champions.tag(contest.reigning, {"overruled_by_version": contest.version.version})
    champions.crown(contest.version)
