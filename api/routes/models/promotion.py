"""What the promotion endpoint does: compares with the champion, and moves MLflow's alias if the model is better."""

import asyncio
from dataclasses import asdict

import httpx
from filelock import Timeout

from api.errors import Conflict, ServiceDown
from api.platform import Platform
from api.routes.models.schemas import Champion, Promoted, PromoteRequest, PromotionFigures
from api.routes.models.service import read_model
from registry.champions import CHAMPION
from registry.tables import Model
from tasks.metrics.promotion import Contest, Figures, NotBetter, Promotion, PromotionImpossible, dismiss, promote


async def promote_model(platform: Platform, model_id: int, body: PromoteRequest) -> Promoted:
    """Make the model champion; takes seconds of computing where the two are compared.

    Raises `NotFound`, `ServiceDown`, and `Conflict` with the figures if the model is not better beyond noise.
    """
    platform.monitor.require("mlflow")
    return await asyncio.to_thread(_promote, platform, model_id, body)


def _promote(platform: Platform, model_id: int, body: PromoteRequest) -> Promoted:
    read_model(platform.database, model_id)
    try:
        promotion = promote(platform.settings, platform.database, model_id, body)
    except PromotionImpossible as error:
        raise Conflict(str(error)) from error
    except NotBetter as error:
        champion = _champion(error.contest)
        raise Conflict(
            str(error),
            champion=champion and champion.model_dump(),
            figures=asdict(error.figures) if error.figures else None,
        ) from error
    except Timeout as error:
        raise Conflict("Another promotion is under way and does not end; try again in a minute.") from error
    except httpx.HTTPError as error:
        raise ServiceDown("mlflow", f"MLflow's registry does not answer ({error}); try again soon.") from error
    return _answer(promotion)


def _answer(promotion: Promotion) -> Promoted:
    contest = promotion.contest
    return Promoted(
        model_id=contest.challenger.id,
        registered_model=contest.version.name,
        version=contest.version.version,
        alias=CHAMPION,
        champion_before=_champion(contest),
        figures=_figures(promotion.figures),
        forced=promotion.forced,
        message=promotion.sentence,
    )


def _figures(figures: Figures | None) -> PromotionFigures | None:
    return PromotionFigures(**asdict(figures)) if figures is not None else None


def _champion(contest: Contest) -> Champion | None:
    if contest.reigning is None:
        return None
    return Champion(
        model_id=contest.champion.id if contest.champion is not None else None, version=contest.reigning.version
    )


def dismiss_champion(platform: Platform, model: Model) -> str | None:
    """Take the alias from a model that has just been deleted; return what to say about it, if it was champion."""
    if model.parameters is None:
        return None
    try:
        name = dismiss(platform.settings, model)
    except httpx.HTTPError as error:
        return f"MLflow did not say whether it was champion ({error}); if it was, the next one has to beat the base."
    if name is None:
        return None
    return f"It was the champion of {name}, which has none now: models:/{name}@{CHAMPION} fails until one is promoted."
