"""How the registered models of MLflow are named: one for each base, which collects its fine-tunes."""

import hashlib
import re

from sqlalchemy.orm import Session

from registry.repositories.models import ModelRepository

# Names that could stand for two bases, or for one with a digest behind it.
_AMBIGUOUS = re.compile(r"--|-/|/-|\.[0-9a-f]{12}$")


def registered_name(base_model: str) -> str:
    """Return the registered model of a base, and of no other: `org/Base.Name` → `org--Base.Name`.

    As Hugging Face names the folders of its cache. Capitals stay, as MLflow tells them apart; where the result could
    stand for another base too, a digest of the name ends it.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "-", base_model.replace("/", "--"))
    unique = name == base_model.replace("/", "--") and base_model.count("/") <= 1 and not _AMBIGUOUS.search(base_model)
    return name if unique else f"{name}.{hashlib.sha256(base_model.encode()).hexdigest()[:12]}"


def name_of_base(session: Session, base_model: str) -> str:
    """Return the registered model that the next fine-tune of a base joins.

    That of its fine-tunes before, so that a name of an older version goes on (`org/Base.Name` → `base.name`), unless
    another base's fine-tunes were first to have it.
    """
    models = ModelRepository(session)
    before = models.registered_model_of(base_model)
    if before is not None and models.first_base_of(before) == base_model:
        return before
    return registered_name(base_model)
