"""Data sets: add one from a file, list them, look at their first rows."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import Json, PlatformClient
from api.cli.failures import WrongUsage
from api.cli.options import DEFAULT_URL, AsJson, Url, pairs
from api.cli.terminal import print_json, print_table, say


def group() -> typer.Typer:
    """Return the commands on data sets."""
    app = typer.Typer(help="Add, list and preview data sets.")
    app.command("add")(add)
    app.command("list")(list_datasets)
    app.command("preview")(preview)
    return app


def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL, JSON, CSV, Parquet, Arrow or plain text")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="name=mine, held_out_fraction=0.2 and the like"),
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Upload a data set; every row is checked."""
    try:
        content = file.open("rb")
    except OSError as error:
        raise WrongUsage(f"The file {file} can't be read: {error.strerror}.") from error
    with content, PlatformClient(url) as client:
        answer = client.post("/api/datasets", files={"file": (file.name, content)}, data=dict(pairs(settings or [])))
    if as_json:
        print_json(answer)
        return
    say(f"Data set {answer['id']} ({answer['name']}) is {answer['status']}: {answer['message']}")
    if answer["report"] is not None:
        _print_report(answer["report"])


def list_datasets(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the data sets."""
    with PlatformClient(url) as client:
        answer = client.list("/api/datasets", "datasets")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("ID", "NAME", "SOURCE", "ROWS", "STATUS"),
        [(found["id"], found["name"], found["source"], found["rows"], found["status"]) for found in answer["datasets"]],
    )


def preview(
    dataset: Annotated[int, typer.Argument(metavar="DATASET", help="Id of a data set", min=1)],
    rows: Annotated[int, typer.Option("--rows", help="How many of the first rows")] = 5,
    rendered: Annotated[bool, typer.Option("--rendered", help="The text that a model is trained on")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the first rows of a data set."""
    with PlatformClient(url) as client:
        answer = client.get(f"/api/datasets/{dataset}/preview", rows=rows, rendered=rendered)
    if as_json:
        print_json(answer)
        return
    for row in answer["rows"]:
        say(f"row {row['number']} ({row['side']})")
        say("\n".join(f"  {line}" for line in _text_of(row).splitlines()))


def _text_of(row: Json) -> str:
    if row["rendered"] is not None:
        return str(row["rendered"])
    if row["messages"] is not None:
        return "\n".join(f"{message['role']}: {message['content']}" for message in row["messages"])
    return str(row["text"])


def _print_report(report: Json) -> None:
    say(
        f"{report['usable_rows']} of {report['rows']} rows can be used ({report['file_format']}, {report['shape']}), "
        f"{report['tokens']} tokens; {report['error_count']} errors"
    )
    for warning in report["warnings"]:
        say(warning)
