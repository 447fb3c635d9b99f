"""Puts the commands together, and turns whatever ends one into a line and an exit code."""

import sys

import typer
from typer.main import get_command

from api.cli import backup, control, datasets, evaluations, export, gc, keys, overview, talking, training
from api.cli.terminal import complain
from api.launcher import up

NAME = "llm-platform"
INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


def program() -> typer.Typer:
    """Return the command line with every command."""
    app = typer.Typer(help="Fine-tune, evaluate and serve language models on this machine.")
    for command in (
        up.up,
        overview.status,
        overview.models,
        training.train,
        training.jobs,
        training.watch,
        control.pause,
        control.resume,
        control.cancel,
        control.logs,
        evaluations.evaluate,
        evaluations.compare,
        talking.generate,
        talking.chat,
        export.export,
        backup.backup,
        backup.restore,
        gc.gc,
    ):
        app.command()(command)
    app.add_typer(datasets.group(), name="datasets")
    app.add_typer(keys.group(), name="keys")
    return app


def run(arguments: list[str] | None = None) -> int:
    """Run one command; `arguments` are those of the process if left out. Returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        # Not standalone: typer would frame an error in a box of many lines.
        code = get_command(program()).main(given or ["--help"], prog_name=NAME, standalone_mode=False)
    except typer.TyperException as error:
        complain(error.format_message())
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED
    return code if isinstance(code, int) else 0
