"""What people and programs read: tables and sentences by Rich, or JSON; errors in one line on stderr."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)
WIDTH_OF_FILES = 1000
"""Without a terminal there is no width to keep to: no cell is folded."""
COLOURS = {
    "AVAILABLE": "green",
    "READY": "green",
    "COMPLETED": "green",
    "RUNNING": "cyan",
    "PAUSED": "yellow",
    "UNAVAILABLE": "yellow",
    "CANCELLED": "yellow",
    "FAILED": "red",
    "INVALID": "red",
}


def say(sentence: str) -> None:
    """Print a line; what looks like markup in it is text."""
    OUT.print(Text(sentence))


def note(sentence: str) -> None:
    """Print a line beside the result, on stderr."""
    ERR.print(Text(sentence, style="dim"))


def complain(sentence: str) -> None:
    """Print an error in one line on stderr."""
    ERR.print(Text.assemble(("error: ", "bold red"), " ".join(sentence.split())))


def print_json(answer: Any) -> None:
    """Print an answer as one line of JSON, as the API gave it."""
    OUT.out(json.dumps(answer, ensure_ascii=False), highlight=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows below the names of their columns: numbers to the right, None as a dash, statuses coloured."""
    rows = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numbers = rows and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    (OUT if OUT.is_terminal else Console(width=WIDTH_OF_FILES)).print(table, soft_wrap=False)


def _cell(value: Any) -> Text:
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    return Text(str(value), style=COLOURS.get(str(value), ""))
