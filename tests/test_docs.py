"""The documentation checked against the project: links, commands, settings and paths that it names exist."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from api.cli.program import program
from configs.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = [page for page in PAGES if "decisions" not in page.parts]
"""Pages that say what is so now; a decision says what was so when it was made."""
LONGEST_README = 150
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE_CODE = re.compile(r"`([^`\n]+)`")
SETTING = re.compile(r"\bLLM_PLATFORM_([A-Z][A-Z_]*[A-Z])\b")
ELLIPSIS_SETTING = re.compile(r"`…_([A-Z][A-Z_]*[A-Z])`")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")
MODULE = re.compile(r"\bpython[0-9.]* -m ([\w.]+)")
COMMAND_LINES_OWN = {"URL", "API_KEY"}
"""Variables that the command line reads, without the settings."""
FOLDERS = ("api", "bench", "configs", "deploy", "docs", "flows", "registry", "tasks", "tests")
SHELLS = ("", "sh", "bash", "console")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
guides = pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def links_of(page: Path) -> list[str]:
    return [link for link in LINK.findall(prose_of(page)) if "://" not in link and not link.startswith("mailto:")]


def anchors_of(page: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def commands_of(page: Path) -> Iterator[str]:
    """The shell commands in fenced blocks, continued lines put together, comments left out."""
    for _, language, block in FENCE.findall(text_of(page)):
        if language not in SHELLS:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"\s#\s.*$", "", line.strip().removeprefix("$ "))


@pages
def test_links_lead_somewhere(page: Path):
    missing = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
            missing.append(link)
    assert not missing


def test_every_page_is_reached_from_the_readme():
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in links_of(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.is_dir():
                reached.update(target.glob("*.md"))
            elif target.suffix == ".md" and target.exists():
                waiting.append(target)
    assert not [str(page.relative_to(ROOT)) for page in PAGES if page not in reached]


def test_every_guide_is_in_the_readmes_table():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links_of(ROOT / "README.md")}
    assert not [str(page.relative_to(ROOT)) for page in GUIDES[1:] if page.resolve() not in linked]


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= LONGEST_README


@guides
def test_make_targets_exist(page: Path):
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [*INLINE_CODE.findall(prose_of(page)), *commands_of(page)]
    named = {name for piece in code for name in MAKE.findall(piece)}
    assert named <= targets


@guides
def test_modules_that_are_run_exist(page: Path):
    named = set(MODULE.findall(text_of(page)))
    assert not [name for name in named if importlib.util.find_spec(name) is None]


@guides
def test_settings_exist(page: Path):
    known = {field.upper() for field in Settings.model_fields} | COMMAND_LINES_OWN
    named = {*SETTING.findall(text_of(page)), *ELLIPSIS_SETTING.findall(text_of(page))}
    assert named <= known


@guides
def test_paths_in_backticks_exist(page: Path):
    made_by_people = (ROOT / ".gitignore").read_text().splitlines()
    missing = []
    for code in INLINE_CODE.findall(prose_of(page)):
        path = code.partition(":")[0].rstrip("/")
        if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./*-]+", path) and path not in made_by_people:
            missing += [] if list(ROOT.glob(path)) else [code]
    assert not missing


@guides
def test_commands_of_the_command_line_are_as_shown(page: Path):
    """Each is parsed by the program itself: its command exists, and takes these arguments and options."""
    problems = []
    for command in commands_of(page):
        for piece in re.split(r"\s(?:&&|\|\|?|;)\s", command):
            words = shlex.split(piece) if "llm-platform" in piece else []
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words and Path(words[0]).name == "llm-platform" and (problem := objection(words[1:])):
                problems.append(f"{piece}: {problem}")
    assert not problems


def objection(words: list[str]) -> str | None:
    """Return what the command line has against these words; nothing is run."""
    command, context = get_command(program()), None
    try:
        while isinstance(command, TyperGroup):
            context = command.make_context("llm-platform", list(words), parent=context)
            _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        command.make_context("llm-platform", list(words), parent=context)
    except typer.Exit:
        return None  # it has shown its help
    except typer.TyperException as error:
        return error.format_message()
    return None


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("status", False),
        ("train 1 max_steps=3 --watch", False),
        ("datasets preview 2 --rendered", False),
        ("keys new --name ci --scope write", False),
        ("statsu", True),
        ("train", True),
        ("train 1 --wacth", True),
        ("datasets preview", True),
        ("keys nwe", True),
    ],
)
def test_a_wrong_command_is_noticed(command: str, problem: bool):
    assert (objection(command.split()) is not None) is problem
