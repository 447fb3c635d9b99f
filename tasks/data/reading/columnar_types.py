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
        fields = {field.name: prune for field in stored if (prune := pruner(field.type))}
        return _struct_pruner(fields) if fields else _without_nulls
    if _is_list(stored) and (within := pruner(stored.value_type)):
        return _list_pruner(within)
    if types.is_map(stored) and (within := pruner(stored.item_type)):
        return _map_pruner(within)
    return None


def has_map(kind: Any) -> bool:
    """Whether a value of this type has a map in it; Arrow gives one as a list of pairs unless it is told otherwise."""
    stored = _stored(kind)
    if types.is_struct(stored):
        return any(has_map(field.type) for field in stored)
    if _is_list(stored) or types.is_dictionary(stored):
        return has_map(stored.value_type)
    return bool(types.is_map(stored))


def _struct_pruner(fields: dict[str, Prune]) -> Prune:
    def prune(struct: dict[str, Any]) -> dict[str, Any]:
        kept = _without_nulls(struct)
        for key, within in fields.items():
            if key in kept:
                kept[key] = within(kept[key])
        return kept

    return prune


def _list_pruner(within: Prune) -> Prune:
    return lambda items: [item and within(item) for item in items]


def _map_pruner(within: Prune) -> Prune:
    return lambda items: {key: item and within(item) for key, item in items.items()}


def _without_nulls(struct: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in struct.items() if value is not None}


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
