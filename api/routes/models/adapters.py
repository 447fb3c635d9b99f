"""An adapter that somebody has put among the models: checked, and taken beside those that were trained here."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from configs.settings import Settings
from registry.adapter_folder import CONFIG, WEIGHTS, adapter_defect, base_of, is_adapter
from registry.model_folder import VOCABULARIES, convertible_gguf, count_parameters, weight_shapes
from registry.weights import Availability, format_size, linear_layers, locate, names_layer
from tasks.atomic_files import StagingFolder

OF_TOKENIZER = (*VOCABULARIES, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_PREFIX, _FACTOR = "base_model.model.", ".lora_A.weight"


@dataclass(frozen=True, slots=True)
class BroughtAdapter:
    """What becomes of an adapter that a model is to be made of."""

    base_model: str
    """The base's name; of an adapter that can't be used its own, as the base's would soon be found available."""
    folder: Path | None
    """Where it lies now, under `adapters_dir`; none: it can't be used."""
    found: Availability


def bring_adapter(settings: Settings, name: str) -> BroughtAdapter | None:
    """Copy the adapter `name` of the models folder to those that are served; None if there is no adapter of this name.

    Of one that can't be used the answer says why, and nothing is copied. Raises OSError.
    """
    given = settings.models_dir / name
    if not is_adapter(given):
        return None
    base_model = _name_of_base(base_of(given), settings.models_dir)
    base = locate(base_model, settings.models_dir) if base_model is not None else None
    if base is None or base_model is None:
        reason = _reason_without_base(given, settings.models_dir)
        return BroughtAdapter(name, None, Availability("UNAVAILABLE", f"{name} is an adapter, and {reason}."))
    if (defect := adapter_defect(given) or _misfit(given, base)) is not None:
        return BroughtAdapter(name, None, Availability("UNAVAILABLE", f"{defect[0].upper()}{defect[1:]}."))
    size = format_size(count_parameters(base))
    return BroughtAdapter(base_model, _copy(given, base, settings), Availability("AVAILABLE", model_size=size))


def _reason_without_base(adapter: Path, models_dir: Path) -> str:
    wanted = base_of(adapter) or "a base that it does not name"
    if convertible_gguf(models_dir / wanted) is not None:
        return (
            f"it belongs to {wanted}, whose GGUF file has not been converted yet: add that model, ask it for an "
            "answer, and add the adapter again"
        )
    return f"it belongs to {wanted}, which is not in the models folder: put it there, and add the adapter again"


def _name_of_base(named: str | None, models_dir: Path) -> str | None:
    """Return a base's name from what an adapter says: a name, or a path that may be another machine's."""
    if named is None:
        return None
    parts = Path(named).parts
    names = [named, *("/".join(parts[-count:]) for count in (2, 1) if len(parts) > count)]
    return next((name for name in names if not Path(name).is_absolute() and locate(name, models_dir)), None)


def _misfit(adapter: Path, base: Path) -> str | None:
    """Return which layer of the base is of another size than the adapter takes it for, in a sentence; None: none is."""
    try:
        factors = dict(weight_shapes(adapter / WEIGHTS))
    except (OSError, SafetensorError):
        return f"{adapter / WEIGHTS} is cut short or damaged: download the adapter again"
    layers = linear_layers(base)
    for name, shape in factors.items():
        layer = name.removeprefix(_PREFIX).removesuffix(_FACTOR)
        size = next((size for known, size in layers.items() if names_layer(known, layer)), None)
        if name.endswith(_FACTOR) and size is not None and shape[1] != size[0]:
            return f"the adapter in {adapter} is for another model: its {layer} takes {shape[1]} inputs, not {size[0]}"
    return None


def _copy(adapter: Path, base: Path, settings: Settings) -> Path:
    """Copy what is served, and the base's tokenizer where the adapter has none, into a folder that never changes."""
    folder = settings.adapters_dir / f"brought-{uuid4().hex}"
    staging = StagingFolder(folder.parent, folder.name)
    try:
        own = _tokenizer_files(adapter)
        for file in (adapter / CONFIG, adapter / WEIGHTS, *(own or _tokenizer_files(base))):
            shutil.copy(file, staging.path)
        staging.path.chmod(0o755)
        staging.publish(folder)
    finally:
        staging.close()
    return folder


def _tokenizer_files(folder: Path) -> list[Path]:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return []
    return sorted({file for pattern in OF_TOKENIZER for file in folder.glob(pattern)})
