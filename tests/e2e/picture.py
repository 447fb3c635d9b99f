"""Pictures of the command line: what a terminal shows, drawn as an SVG that asks for nothing from outside."""

import io
import re
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.text import Text


def save_picture(path: Path, command: str, shown: str, columns: int) -> None:
    """Draw the command, after a shell's prompt, and what it has shown on a terminal of so many columns."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    ended = shown.replace("\r\n", "\n").rstrip("\n")  # a terminal's ends of lines; what else follows \r is drawn over
    lines = [Text.assemble(("$ ", "bold green"), command), *AnsiDecoder().decode(ended)]
    for line in lines:
        for part in line.divide(range(columns, len(line), columns)):  # as a terminal folds: anywhere
            console.print(part, highlight=False, no_wrap=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Rich names a font that browsers would fetch; without it they take their own of fixed width.
    drawn = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="", unique_id=path.stem), flags=re.DOTALL)
    path.write_text(drawn, encoding="utf-8")
