"""The models that the platform knows on its first start."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter


class CatalogueModel(BaseModel):
    """One entry of `catalogue.yaml`."""

    model_config = ConfigDict(extra="forbid")

    name: str
    base_model: str
    description: str
    model_size: str


def load_catalogue() -> list[CatalogueModel]:
    """Return the catalogue in id order."""
    text = (Path(__file__).parent / "catalogue.yaml").read_text(encoding="utf-8")
    return TypeAdapter(list[CatalogueModel]).validate_python(yaml.safe_load(text))
