"""The `promote` flow: the evaluations that are missing, then the contest with the champion; made to be scheduled."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from configs.recipe import PromotionParameters
from flows.evaluate import evaluate


@flow(name="promote", description="Make a model the champion if it is better, beyond noise", persist_result=False)
def promote(promotion: PromotionParameters) -> State[Any]:
    """Evaluate model and champion on the same rows, as far as that is not done, and promote the better one."""
    # Here, not above: to register the flow takes its parameters, and not the seconds in which torch is imported.
    from tasks.promote import decide, find_missing_evaluations, resolve

    model_id = resolve(promotion)
    for evaluation in find_missing_evaluations(promotion, model_id):
        evaluate(evaluation)
    verdict = decide(promotion, model_id)
    return Completed(name="Promoted" if verdict.promoted else "Kept", message=verdict.sentence)
