"""Evaluations: measure a model, and compare two measurements row by row."""

from typing import Annotated, Any

import typer

from api.cli.client import Json, PlatformClient
from api.cli.failures import CommandFailed
from api.cli.options import DEFAULT_URL, AsJson, ModelId, Url, named_settings
from api.cli.terminal import note, print_json, print_table, say
from api.cli.watching import watch_evaluation

EvaluationId = Annotated[int, typer.Argument(min=1)]


def evaluate(
    model: ModelId,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...",
            help="dataset_id=2, max_samples=100, seed=1 and the like",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Compute this one only; may be given again. None: all five")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until the numbers are there")] = True,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Measure a model on held-out rows; Ctrl-C detaches, and the evaluation goes on."""
    body = ({"metrics": metric} if metric else {}) | named_settings(settings or [])
    with PlatformClient(url) as client:
        answer = client.post(f"/api/models/{model}/evaluate", body, params={"wait": "false"})
        if wait:
            answer = _wait(client, answer["id"])
    if as_json:
        print_json(answer)
    elif wait:
        _print_metrics(answer)
    else:
        say(f"Evaluation {answer['id']} is {answer['status']}.")
    if wait and answer["status"] != "COMPLETED":
        why = f": {answer['error']}" if answer["error"] else "."
        raise CommandFailed(f"Evaluation {answer['id']} is {answer['status']}{why}")


def compare(
    first: EvaluationId,
    second: EvaluationId,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations, by their ids, over the rows that both have."""
    with PlatformClient(url) as client:
        answer = client.get("/api/evaluations/compare", ids=f"{first},{second}")
    if as_json:
        print_json(answer)
        return
    say(f"{answer['rows']} rows that both have")
    print_table(
        ("METRIC", str(first), str(second), "CHANGE", "95% INTERVAL", "P", "BETTER"),
        [
            (
                name,
                *found["values"],
                found["difference"],
                _interval(found["ci95"]),
                found["p_value"],
                found["better"],
            )
            for name, found in answer["metrics"].items()
        ],
    )
    for sentence in answer["notes"]:
        say(sentence)


def _wait(client: PlatformClient, evaluation_id: int) -> Json:
    try:
        return watch_evaluation(client, evaluation_id)
    except KeyboardInterrupt:
        note(f"Detached: evaluation {evaluation_id} goes on; see it by GET /api/evaluations/{evaluation_id}")
        raise


def _print_metrics(evaluation: Json) -> None:
    # Imported here: it brings pydantic, which no other command needs.
    from configs.recipe import METRICS

    say(f"Evaluation {evaluation['id']} of model {evaluation['model_id']} is {evaluation['status']}")
    measured = [name for name in METRICS if evaluation[name] is not None]
    print_table(
        ("METRIC", "VALUE", "95% INTERVAL"),
        [(name, evaluation[name], _interval(evaluation[f"{name}_ci95"])) for name in measured],
    )
    for sentence in evaluation["notes"] or []:
        say(sentence)


def _interval(ends: list[Any] | None) -> str | None:
    return None if ends is None else f"{ends[0]:.3g} to {ends[1]:.3g}"
