"""Arrow's types as JSON has them: which can be written, and which of a struct's keys a row has itself."""

from collections.abc import Callable
from typing import Any

from pyarrow import types

Prune = Callable[[Any], Any]


def require_json_type(name: str, kind: Any) -> None:
    """Raise ValueError for dates, bytes and the like, which no example is made of."""
    stored = _stored(kind)
    if _is_list(stored) or types.is_dictionary(stored):
        require_json_type(name, stored.value_type)
    elif types.is_struct(stored):
        for field in stored:
            require_json_type(f"{name}.{field.name}", field.type)
    elif types.is_map(stored) and _is_text(stored.key_type):
        require_json_type(name, stored.item_type)
    elif not (
        _is_text(stored)
        or types.is_boolean(stored)
        or types.is_integer(stored)
        or types.is_floating(stored)
        or types.is_null(stored)
    ):
        raise ValueError(f"the column {name} holds {kind}; texts, numbers, lists and structs of them are accepted")


def pruner(kind: Any) -> Prune | None:
    """Return what leaves out the null keys of a value's structs; None where a value of this type has no struct.

    All structs of a column have the same keys: one is null where only other rows have it. A map's keys are its own.
    """
    stored = _stored(kind)
    if types.is_dictionary(stored):
        return pruner(stored.value_type)
    if types.is_struct(stored):
        return _struct_pruner({field.name: pruner(field.type) for field in stored})
    if _is_list(stored):
        within = pruner(stored.value_type)
        return within and (lambda items: [_pruned(item, within) for item in items])
    if types.is_map(stored):
        within = pruner(stored.item_type)
        return within and (lambda items: {key: _pruned(item, within) for key, item in items.items()})
    return None


def _struct_pruner(fields: dict[str, Prune | None]) -> Prune:
    def prune(struct: dict[str, Any]) -> dict[str, Any]:
        return {key: _pruned(value, fields[key]) for key, value in struct.items() if value is not None}

    return prune


def _pruned(value: Any, prune: Prune | None) -> Any:
    return value if prune is None or value is None else prune(value)


def _stored(kind: Any) -> Any:
    """Return what an extension type, such as JSON text, is stored as; any other type as it is."""
    return kind.storage_type if hasattr(kind, "storage_type") else kind


def _is_list(kind: Any) -> bool:
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
