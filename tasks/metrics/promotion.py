"""Promotion: MLflow's alias `champion` moves to a model that is better than the present champion, beyond noise."""

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
from registry.tables import Evaluation, Model
from tasks.metrics.comparison import common_rows, compare
from tasks.metrics.errors import MetricError
from tasks.metrics.sample_file import read_samples, sample_file
from tasks.metrics.samples import corpus_metrics

LONGEST_WAIT_SECONDS = 120.0
"""For another promotion, which takes seconds; its process may have been stopped."""


class PromotionImpossible(Exception):
    """The model is none that can be champion: it does not exist, or no training made it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How the challenger did against the champion in one metric, over the rows that both were evaluated on.

    `evaluations` and `values` go champion, challenger; `difference` is the challenger's value less the champion's, with
    its 95% interval and two-sided p-value (`tasks.metrics.comparison`).
    """

    metric: MetricName
    evaluations: tuple[int, int]
    rows: int
    values: tuple[float, float]
    difference: float
    ci95: tuple[float, float] | None
    p_value: float | None
    better: bool
    """Whether the challenger is better, beyond noise."""

    def __str__(self) -> str:
        interval = "none for one row" if self.ci95 is None else "{:.4g} to {:.4g}".format(*self.ci95)
        p_value = "unknown" if self.p_value is None else format(self.p_value, ".2g")
        return (
            f"{self.metric} {self.values[1]:.4g} against {self.values[0]:.4g} over {self.rows} rows, difference "
            f"{self.difference:.4g} (95% interval {interval}, p {p_value})"
        )


@dataclass(frozen=True, slots=True)
class Contest:
    """A model that would be champion, and the champion it has to beat; both are versions of one registered model."""

    challenger: Model
    version: RegisteredVersion
    champion: Model | None
    """None where nobody reigns, or where the version was not registered by this platform."""
    reigning: RegisteredVersion | None

    @property
    def decided(self) -> bool:
        """Whether there is nobody to beat: no champion at all, a deleted one, or the model itself is."""
        deleted = self.champion is not None and self.champion.deleted_at is not None
        return self.reigning is None or self.reigning == self.version or deleted


@dataclass(frozen=True, slots=True)
class Promotion:
    """How a contest ended that made the challenger champion, or found that it was."""

    contest: Contest
    figures: Figures | None
    """None where there was nobody to beat, or where who was overruled had not been evaluated on the same rows."""
    forced: bool
    """Whether the champion was overruled: the figures did not speak for the challenger."""

    @property
    def sentence(self) -> str:
        """What happened, with the figures."""
        version, reigning = self.contest.version, self.contest.reigning
        if reigning == version:
            return f"Version {version.version} of {version.name} is the champion already."
        figures = f": {self.figures}" if self.figures is not None else ""
        before = f", after version {reigning.version}{' by force' * self.forced}" if reigning is not None else ""
        return f"Version {version.version} of {version.name} is the champion now{before}{figures}."


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
    return Contest(model, version, _model_of(models, reigning), reigning)


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
            promotion = Promotion(contest, None, forced=False)
        else:
            figures = _figures(settings, pair, wanted.metric) if pair is not None else None
            won = figures is not None and figures.better
            if not won and not wanted.force:
                raise NotBetter(_why_not(contest, figures, wanted), contest, figures)
            promotion = Promotion(contest, figures, forced=not won)
        if contest.reigning != contest.version:
            _crown(Champions(settings.mlflow_url, settings.services_login), promotion, wanted)
        return promotion


def evidence(
    session: Session, settings: Settings, contest: Contest, wanted: PromotionSettings
) -> tuple[Evaluation, Evaluation] | None:
    """Return the newest evaluations of champion and challenger that can be compared in the metric; None if none can."""
    if contest.champion is None:
        return None
    evaluations = EvaluationRepository(session)
    sides = [
        [one for one in evaluations.of_model(model.id) if _speaks(one, settings, wanted.metric)]
        for model in (contest.champion, contest.challenger)
    ]
    for of_challenger in sides[1]:
        basis = _basis(of_challenger, contest.challenger, wanted.metric)
        if wanted.dataset_id not in (None, basis[0]):
            continue
        for of_champion in sides[0]:
            if _basis(of_champion, contest.champion, wanted.metric) == basis:
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


def _figures(settings: Settings, pair: tuple[Evaluation, Evaluation], metric: MetricName) -> Figures | None:
    """Return the metric's figures; None if it can't be compared, as without common rows."""
    samples = [
        [sample.scores for sample in read_samples(sample_file(settings.evaluations_dir, one.uid))] for one in pair
    ]
    common = common_rows(*samples)
    try:
        difference = compare(*common)[metric]
        of_champion, of_challenger = (corpus_metrics(side)[metric] for side in common)
    except (MetricError, KeyError):
        return None
    return Figures(
        metric=metric,
        evaluations=(pair[0].id, pair[1].id),
        rows=len(common[0]),
        values=(of_champion, of_challenger),
        difference=difference.value,
        ci95=difference.interval,
        p_value=difference.p_value,
        better=difference.better == "b",
    )


def _why_not(contest: Contest, figures: Figures | None, wanted: PromotionSettings) -> str:
    challenger = f"Model {contest.challenger.id} ({contest.challenger.name})"
    assert contest.reigning is not None
    if contest.champion is None:
        return (
            f"The champion, version {contest.reigning.version} of {contest.reigning.name}, was not trained here, so "
            f"nothing is known of it to compare {challenger} with; force overrules it."
        )
    champion = f"the champion, model {contest.champion.id} ({contest.champion.name})"
    if figures is None:
        rows = f"data set {wanted.dataset_id}" if wanted.dataset_id is not None else "the same data set"
        return (
            f"{challenger} and {champion}, have no evaluations over the same rows of {rows} that have "
            f"{wanted.metric}; evaluate both first (POST /api/models/ID/evaluate with the same dataset_id and "
            "max_seq_length)."
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
