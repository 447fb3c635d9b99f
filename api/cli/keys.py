"""API keys: make one."""

from typing import Annotated

import typer

from api.cli.failures import WrongUsage
from api.cli.options import AsJson
from api.cli.terminal import note, print_json, say
from configs.keys import NAME, Scope, new_key


def group() -> typer.Typer:
    """Return the commands on API keys."""
    app = typer.Typer(help="Make keys for the API.")
    app.callback()(_keep_the_name)
    app.command("new")(new)
    return app


def new(
    name: Annotated[str, typer.Option("--name", help="Whose key it is, as refusals name it")],
    scope: Annotated[Scope, typer.Option("--scope", help="What it may do (docs/keys.md)")] = Scope.READ,
    as_json: AsJson = False,
) -> None:
    """Make a key: printed here and kept nowhere, with the entry of LLM_PLATFORM_API_KEYS that lets it in."""
    if not NAME.fullmatch(name):
        raise WrongUsage(f"--name is {name!r}, but a key's name is 1 to 64 letters, digits, '.', '_' and '-'.")
    key, configured = new_key(name, scope)
    if as_json:
        print_json({"key": key, "entry": str(configured)})
        return
    note("The key, shown this once; its holder sends it as `Authorization: Bearer KEY`:")
    say(key)
    note("Its hash, for the platform; further keys follow after a comma:")
    say(f"LLM_PLATFORM_API_KEYS={configured}")


def _keep_the_name() -> None:
    # Without a callback typer makes a group of a single command that command.
    return
