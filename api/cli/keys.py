"""API keys: make one for the platform's settings, and list, add and revoke them while it runs."""

from typing import Annotated
from urllib.parse import quote

import typer

from api.cli.client import PlatformClient
from api.cli.failures import WrongUsage
from api.cli.options import DEFAULT_URL, AsJson, Url
from api.cli.terminal import note, print_json, print_table, say
from configs.keys import NAME, Scope, new_key


def group() -> typer.Typer:
    """Return the commands on API keys."""
    app = typer.Typer(help="Make, list and revoke keys for the API.")
    app.command("new")(new)
    app.command("add")(add)
    app.command("list")(list_keys)
    app.command("revoke")(revoke)
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


def add(
    name: Annotated[str, typer.Option("--name", help="Whose key it is, as refusals and the audit log name it")],
    scope: Annotated[Scope, typer.Option("--scope", help="What it may do (docs/keys.md)")] = Scope.READ,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Make a key in a running platform that asks for keys: printed here and kept nowhere, let in at once."""
    with PlatformClient(url) as client:
        answer = client.post("/api/keys", {"name": name, "scope": str(scope)})
    if as_json:
        print_json(answer)
        return
    note("The key, shown this once; its holder sends it as `Authorization: Bearer KEY`:")
    say(answer["key"])


def list_keys(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the keys of a running platform: those of its settings, and those added since."""
    with PlatformClient(url) as client:
        answer = client.get("/api/keys")
    if as_json:
        print_json(answer)
        return
    columns = ("id", "name", "scope", "source", "created_at", "revoked_at")
    heads = ("ID", "NAME", "SCOPE", "SOURCE", "CREATED", "REVOKED")
    print_table(heads, [[key[column] for column in columns] for key in answer["keys"]])


def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of a key, as `keys list` shows it")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Revoke a key of a running platform: within two seconds no process of it lets the key in."""
    with PlatformClient(url) as client:
        answer = client.delete(f"/api/keys/{quote(key, safe='')}")
    if as_json:
        print_json(answer)
        return
    say(f"Key {answer['id']} ({answer['name']}) is revoked.")
