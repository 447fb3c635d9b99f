"""How a model is called by clients of OpenAI's API, and which model a name means."""

import re

from sqlalchemy.orm import Session

from api.errors import NotFound
from registry.repositories.models import ModelRepository
from registry.stored_values import storable_text
from registry.tables import Model

FINE_TUNED = "ft:"


def name_of(model: Model) -> str:
    """Return the base's name for a base model, `ft:BASE:SUFFIX:ID` for a fine-tuned one."""
    if model.is_base:
        return model.base_model
    return fine_tuned_name(model.base_model, model.name, str(model.id))


def fine_tuned_name(base_model: str, name: str, ending: str) -> str:
    """Return `ft:BASE:SUFFIX:ENDING` for a model or checkpoint that a person has called `name`."""
    suffix = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{FINE_TUNED}{base_model}:{suffix}:{ending}"


def named(session: Session, name: str) -> Model:
    """Return the model of a name, or of an id in digits; raises `NotFound`."""
    if storable_text(name) != name:
        # No database has, or would be asked for, such characters.
        raise no_model(storable_text(name))
    models = ModelRepository(session)
    number = name.rpartition(":")[2] if name.startswith(FINE_TUNED) else name
    model = models.get(int(number)) if re.fullmatch(r"[1-9][0-9]{0,8}", number) else models.base_of_name(name)
    if model is None or name not in (name_of(model), number):
        raise no_model(name)
    return model


def no_model(name: str) -> NotFound:
    """Return the error for a name that no model has."""
    message = f"There is no model named '{name}'; GET /v1/models lists those there are."
    return NotFound(message, code="model_not_found", param="model")


def all_named(session: Session) -> dict[str, Model]:
    """Return every model that has a name of its own, by name; of several over one base the first."""
    found: dict[str, Model] = {}
    for model in ModelRepository(session).list():
        found.setdefault(name_of(model), model)
    return found
