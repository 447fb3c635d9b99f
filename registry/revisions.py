"""The versions of a schema, read from a folder of Alembic migrations without running or importing any."""

import re
from dataclasses import dataclass
from pathlib import Path

_REVISION = re.compile(r"""^revision(?:: str)? = ["'](\w+)["']""", re.MULTILINE)
_DOWN_REVISION = re.compile(r"""^down_revision(?:: [\w |\[\],.]+)? = (.+)$""", re.MULTILINE)
_NAME = re.compile(r"""["'](\w+)["']""")


@dataclass(frozen=True)
class Revisions:
    """Every version that some migrations know."""

    head: str
    """The newest one."""
    all: frozenset[str]


def read_revisions(folder: Path) -> Revisions:
    """Return the versions of the migrations in a folder. Raises ValueError unless they have exactly one head.

    Alembic's own reader imports each migration; MLflow's and Prefect's take seconds to import.
    """
    named, replaced = set(), set()
    for file in folder.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        found = _REVISION.search(text)
        if found:
            named.add(found[1])
            down = _DOWN_REVISION.search(text)
            replaced |= set(_NAME.findall(down[1])) if down else set()
    heads = named - replaced
    if len(heads) != 1:
        raise ValueError(f"The migrations in {folder} end in {sorted(heads)}, but must end in one version.")
    return Revisions(heads.pop(), frozenset(named))
