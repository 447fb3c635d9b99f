"""Which rows a model has been trained on, itself or as one of the models that it was made from."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from configs.dataset import BUILT_IN_DATASET_ID, DatasetSettings
from configs.settings import Settings
from registry.repositories.datasets import DatasetRepository
from registry.repositories.models import ModelRepository
from registry.tables import Model
from tasks.data.dataset_rows import rows_of
from tasks.data.examples import DatasetError
from tasks.data.split import split_rows

HELD_OUT_FRACTION = DatasetSettings.model_fields["held_out_fraction"].default
PREFIX = 16
"""Hexadecimal digits of a hash that most rows can be told apart by: those that agree in them are compared whole."""


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """Which of some rows were trained on."""

    hashes: frozenset[str]
    """Their content hashes (SHA-256 in hex)."""
    unknown_datasets: tuple[int, ...]
    """Data sets that were trained on and are gone: whether their rows are among these, nobody can tell."""


def trained_among(
    session: Session, settings: Settings, models: Iterable[Model], wanted: Collection[str]
) -> TrainedRows:
    """Return which rows, of `wanted` content hashes in hex, any of the models or of their ancestors was trained on."""
    found: set[str] = set()
    unknown: set[int] = set()
    for dataset_id, held_out_dataset_id in sorted(_training_sets(session, models), key=str):
        hashes = _training_hashes(session, settings, dataset_id, held_out_dataset_id)
        if hashes is None:
            unknown.add(dataset_id)
        else:
            found |= _common(hashes, wanted)
    return TrainedRows(frozenset(found), tuple(sorted(unknown)))


def _training_sets(session: Session, models: Iterable[Model]) -> set[tuple[int, int | None]]:
    """Return (data set, own held-out data set) of every job that led to the models."""
    repository = ModelRepository(session)
    recipes = [
        ancestor.parameters.get("recipe", {})
        for model in models
        for ancestor in repository.lineage(model)
        if ancestor.parameters is not None
    ]
    return {(one.get("dataset_id") or BUILT_IN_DATASET_ID, one.get("held_out_dataset_id")) for one in recipes}


def _training_hashes(
    session: Session, settings: Settings, dataset_id: int, held_out_dataset_id: int | None
) -> NDArray[np.uint8] | None:
    """Return the hashes (rows, 32) of the rows that a job with these data sets trains on; None if they are gone."""
    datasets, folder = DatasetRepository(session), settings.datasets_dir
    dataset = datasets.get(dataset_id)
    if dataset is None:
        return None
    own = held_out_dataset_id or dataset.settings.get("held_out_dataset_id")
    held_out = datasets.get(own) if own is not None else None
    if own is not None and held_out is None:
        return None
    try:
        hashes = rows_of(folder, dataset.source, dataset.content_hash).hashes
        others = rows_of(folder, held_out.source, held_out.content_hash).hashes if held_out is not None else None
        split = split_rows(hashes, dataset.settings.get("held_out_fraction", HELD_OUT_FRACTION), others)
    except DatasetError:
        return None
    return hashes[split.train]


def _common(hashes: NDArray[np.uint8], wanted: Collection[str]) -> set[str]:
    prefixes = np.array([int(one[:PREFIX], 16) for one in wanted], dtype=np.uint64)
    of_rows = np.ascontiguousarray(hashes[:, : PREFIX // 2]).view(">u8").ravel()
    return {row.tobytes().hex() for row in hashes[np.isin(of_rows, prefixes)]} & set(wanted)
