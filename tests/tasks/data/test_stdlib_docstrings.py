import base64
import inspect
import json
import re
import subprocess
import sys

import pytest

from tasks.data.examples import Example
from tasks.data.stdlib_docstrings import stdlib_docstring_examples

QUESTION = re.compile(r"What does the Python function `(?P<name>[\w.]+)\((?P<arguments>.*)\)` do\?", re.DOTALL)


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return stdlib_docstring_examples()


def test_every_row_is_a_documented_public_function(rows):
    assert 700 < len(rows) < 2000
    for row in rows:
        match = QUESTION.fullmatch(row.prompt)
        assert match, row.prompt
        words = match["name"].split(".")
        assert not any(word.startswith("_") for word in words)
        # The modules, that is: a function may well be called `test`.
        assert not {"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"} & set(words[:-1])
        assert words[0] in sys.stdlib_module_names
        assert row == Example.question(row.prompt, row.answer)
        assert row.answer.strip()


@pytest.mark.parametrize("function", [json.dumps, base64.b64encode, inspect.getsource])
def test_known_functions_are_asked_by_signature_and_answered_by_docstring(rows, function):
    name = f"{function.__module__}.{function.__name__}"
    (row,) = [row for row in rows if row.prompt.startswith(f"What does the Python function `{name}(")]
    match = QUESTION.fullmatch(row.prompt)
    assert f"({match['arguments']})" == str(inspect.signature(function))
    assert row.answer == inspect.getdoc(function)


def test_no_row_twice(rows):
    assert len(set(rows)) == len(rows)


def test_same_rows_in_the_same_order_in_another_process_that_imports_none_of_them(rows):
    program = (
        "import sys\n"
        "from tasks.data.stdlib_docstrings import stdlib_docstring_examples\n"
        "print([row.content_hash for row in stdlib_docstring_examples()])\n"
        "assert 'tkinter' not in sys.modules and 'antigravity' not in sys.modules"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str([row.content_hash for row in rows])
