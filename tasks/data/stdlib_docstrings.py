"""The built-in data set: what each public function of Python's standard library does, from its docstring."""

import ast
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from tasks.data.examples import DatasetError, Example

SKIPPED_PACKAGES = frozenset(
    {"ensurepip", "idlelib", "idle_test", "lib2to3", "pydoc_data", "test", "tests", "turtledemo"}
)


def stdlib_docstring_examples() -> list[Example]:
    """Return instruction pairs from the documented public top-level functions of the standard library.

    The sources of the running Python are parsed, never imported, so nothing of them runs; a file that cannot be read
    or parsed is skipped. Rows come in the order of module names and, within a module, of its source; equal rows are
    kept once. About 1,200 rows on Python 3.11. Raises DatasetError where Python ships without its sources.
    """
    library = Path(sysconfig.get_path("stdlib"))
    # A dictionary keeps the first of equal rows, and the order.
    rows: dict[Example, None] = {}
    for module, path in _public_modules(library):
        rows.update(dict.fromkeys(_module_examples(module, path)))
    if not rows:
        raise DatasetError(
            f"no sources of Python's standard library under {library}; create a data set and pass its dataset_id"
        )
    return list(rows)


def _public_modules(folder: Path, package: str = "") -> list[tuple[str, Path]]:
    """Return (dotted name, file) of the public modules under `folder`, sorted by name: folders list in no fixed order.

    Folders that are no public package, such as site-packages, are not entered: they may be large.
    """
    modules = []
    for path in folder.iterdir():
        word = path.name.removesuffix(".py")
        name = f"{package}.{word}" if package else word
        if package and word == "__init__":
            modules.append((package, path))
        elif _is_public(word) and (package or word in sys.stdlib_module_names):
            if path.is_dir():
                modules += _public_modules(path, name)
            elif path.suffix == ".py":
                modules.append((name, path))
    return sorted(modules)


def _is_public(word: str) -> bool:
    return word.isidentifier() and not word.startswith("_") and word not in SKIPPED_PACKAGES


def _module_examples(module: str, path: Path) -> Iterator[Example]:
    """Yield the rows of one module; none if its file cannot be read or parsed."""
    try:
        with warnings.catch_warnings():
            # A library's old escape sequences are not our caller's warnings.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        answer = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
        if answer:
            signature = f"{module}.{node.name}({ast.unparse(node.args)})"
            yield Example.question(f"What does the Python function `{signature}` do?", answer)
