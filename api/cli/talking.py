"""Text from a model: continue a prompt, or talk to it."""

import json
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from api.cli.client import PlatformClient, ServerEvent
from api.cli.failures import Unreachable
from api.cli.options import DEFAULT_URL, AsJson, ModelId, Url, named_settings
from api.cli.terminal import OUT, note, print_json

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME=VALUE]...", help="temperature=0, seed=1, top_p=0.9, max_new_tokens=64 and the like"),
]
STDIN = "-"


def generate(
    model: ModelId,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue; - reads it from stdin")],
    settings: Settings = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt: the text is printed as it comes."""
    text = sys.stdin.read() if prompt == STDIN else prompt
    body = {"prompt": text} | named_settings(settings or [])
    path = f"/api/models/{model}/generate"
    with PlatformClient(url) as client:
        if as_json:
            print_json(client.post(path, body))
            return
        events = client.events("POST", path, body | {"stream": True})
        # What is wrong with the request is an error before the prompt is repeated.
        event = next(events, None)
        OUT.out(text, end="", highlight=False)
        while event is not None and event.kind == "message":
            _print_piece(json.loads(event.data)["text"])
            event = next(events, None)
        OUT.out("")
        if event is None or event.kind != "done":
            raise Unreachable(json.loads(event.data)["error"] if event is not None else CUT_OFF)


def chat(
    model: ModelId,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="temperature=0, seed=1, max_tokens=200 and the like"),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told before the talk")] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Talk to a model: Ctrl-C stops an answer, Ctrl-D ends the talk. Without a terminal a line of stdin is a turn."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    chosen = named_settings(settings or [])
    with PlatformClient(url) as client:
        for question in _questions(prompting=sys.stdin.isatty() and not as_json):
            messages.append({"role": "user", "content": question})
            body = {"model": str(model), "messages": messages} | chosen
            if as_json:
                answer = client.post("/v1/chat/completions", body)
                print_json(answer)
                messages.append(answer["choices"][0]["message"])
            else:
                said = _print_answer(client.events("POST", "/v1/chat/completions", body | {"stream": True}))
                messages.append({"role": "assistant", "content": said})


CUT_OFF = "The platform stopped answering in the middle of the text."
END = "[DONE]"


def _questions(prompting: bool) -> Iterator[str]:
    """Yield what the person types, without empty lines, until the input ends."""
    if not prompting:
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401 - gives `input` its line editing and history

    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            OUT.out("")
            return
        if question:
            yield question


def _print_answer(events: Iterator[ServerEvent]) -> str:
    """Print an answer as it comes; returns it, or what there is of it when Ctrl-C stops it."""
    pieces: list[str] = []
    try:
        for event in events:
            if event.data == END:
                break
            chunk = json.loads(event.data)
            if "error" in chunk:
                raise Unreachable(chunk["error"]["message"])
            piece = chunk["choices"][0]["delta"].get("content") or ""
            pieces.append(piece)
            _print_piece(piece)
        else:
            raise Unreachable(CUT_OFF)
    except KeyboardInterrupt:
        OUT.out("")
        note("Stopped.")
    else:
        OUT.out("")
    return "".join(pieces)


def _print_piece(piece: str) -> None:
    OUT.out(piece, end="", highlight=False)
    sys.stdout.flush()
