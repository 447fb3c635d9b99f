"""Options that many commands share, and settings given as NAME=VALUE."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from api.cli.failures import WrongUsage

Url = Annotated[
    str,
    typer.Option("--url", envvar="LLM_PLATFORM_URL", help="Where the platform is", metavar="URL", show_default=True),
]
DEFAULT_URL = "http://localhost:5000"
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON")]
ModelId = Annotated[int, typer.Argument(help="Id of a model (see `models`)", metavar="MODEL", min=1)]
JobId = Annotated[int, typer.Argument(help="Id of a training job (see `jobs`)", metavar="JOB", min=1)]

Status = Annotated[str | None, typer.Option("--status", help="Only those in this status, such as RUNNING")]
Name = Annotated[str | None, typer.Option("--name", help="Only those of exactly this name")]
OfModel = Annotated[int | None, typer.Option("--model", help="Only those of the model with this id", min=1)]
Newest = Annotated[int | None, typer.Option("--limit", help="Only the newest of them, so many, newest first", min=1)]


def list_query(status: str | None, name: str | None, limit: int | None) -> dict[str, Any]:
    """Return what to ask a list of the API for; whoever limits it wants the newest."""
    order = None if limit is None else "desc"
    return {"status": None if status is None else status.upper(), "name": name, "limit": limit, "order": order}


def named_settings(given: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE arguments as fields of a request: values are JSON where they can be read so, else text.

    Raises `WrongUsage` for an argument without a name, or a name given twice.
    """
    settings: dict[str, Any] = {}
    for name, value in pairs(given):
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def pairs(given: Sequence[str]) -> list[tuple[str, str]]:
    """Return NAME=VALUE arguments as names and values; raises `WrongUsage` as `named_settings` does."""
    found: dict[str, str] = {}
    for argument in given:
        name, separator, value = argument.partition("=")
        if not name or not separator:
            raise WrongUsage(f"{argument!r} is no setting: give settings as NAME=VALUE, such as max_steps=30.")
        if name in found:
            raise WrongUsage(f"{name} is given twice, as {found[name]!r} and {value!r}: give it once.")
        found[name] = value
    return list(found.items())
