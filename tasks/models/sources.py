"""From a model's record to what is in memory: weights found, tokenizer and model loaded, data set prepared."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.chat_format import ChatFormat
from configs.dataset import BUILT_IN_DATASET_ID, DatasetSettings
from configs.recipe import TrainingRecipe
from configs.settings import Settings
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.tables import Model
from registry.weights import obtain
from tasks.data.chosen_format import PLAIN, choose_format
from tasks.data.dataset_rows import rows_of, tokens_dir
from tasks.data.examples import DatasetError
from tasks.data.prepared import PreparedDataset, PreparedRows, prepare_training
from tasks.data.prepared import prepare as prepare_examples
from tasks.data.rows import ExampleRows
from tasks.data.tokenizers import set_adds_eos
from tasks.data.validation_report import is_of_conversations
from tasks.models.device import choose_device, choose_dtype
from tasks.models.endings import answer_end_ids
from tasks.models.loading import (
    attach_adapter,
    context_length,
    load_base_model,
    load_config,
    load_tokenizer,
)

HELD_OUT_FRACTION = DatasetSettings.model_fields["held_out_fraction"].default


class UnknownDataset(Exception):
    """A job or evaluation names a data set that does not exist."""


@dataclass(frozen=True)
class NamedRows:
    """What a data set gives to train on, with the name that MLflow shows."""

    name: str
    source: str
    prepared: PreparedRows


@dataclass(frozen=True)
class NamedDataset(NamedRows):
    """A data set that is prepared for an evaluation."""

    prepared: PreparedDataset


class ModelSource:
    """The folders of a model's weights and adapter on this machine, and how they are loaded on its device."""

    def __init__(
        self,
        settings: Settings,
        model: Model,
        chosen: ChatFormat | None = None,
        add_eos: bool | None = None,
    ) -> None:
        """Find the weights, fetching them if need be; raises `registry.weights.WeightsUnavailable`.

        `chosen` and `add_eos` take the place of the model's own format. Raises `DatasetError` for one that it can't
        have.
        """
        self._settings = settings
        self.base_model = model.base_model
        self.base_folder, self.base_reference = _weights(settings, model)
        self.adapter_folder: Path | None = settings.adapters_dir / model.adapter if model.adapter else None
        self._is_base = model.is_base
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.adapter_folder or self.base_folder)
        choose_format(self.tokenizer, ChatFormat.model_validate(model.chat_format or {}))
        if chosen is not None:
            choose_format(self.tokenizer, chosen)
        if add_eos is not None:
            set_adds_eos(self.tokenizer, add_eos)
        config = load_config(self.base_folder)
        self.context_length = context_length(config)
        self.vocabulary: int = config.get_text_config().vocab_size
        """Tokens that the model has an embedding of; a tokenizer may know more."""
        self.device = choose_device(settings.device)
        self.dtype: torch.dtype = choose_dtype(settings.compute_dtype, self.device)

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Ids of the tokens that end an answer."""
        return frozenset(answer_end_ids(self.base_folder, self.tokenizer))

    @property
    def known_end_ids(self) -> list[int]:
        """Those that the model has an embedding of, the one that ends a turn first: what other programs are told."""
        return [token_id for token_id in answer_end_ids(self.base_folder, self.tokenizer) if token_id < self.vocabulary]

    @property
    def pad_token_id(self) -> int:
        """Id to pad batches with; padding is masked, so any id serves where the tokenizer's has no embedding."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(token_id, int) and 0 <= token_id < self.vocabulary:
                return token_id
        return 0

    def load_base(self) -> PreTrainedModel:
        """Return the weights without an adapter, on the device."""
        model = load_base_model(self.base_folder, self.dtype, self.device)
        if model.generation_config is not None:
            model.generation_config.eos_token_id = self.known_end_ids or None
        return model

    def load(self) -> PreTrainedModel:
        """Return the model as it answers: its weights, and the adapter if it has one."""
        base = self.load_base()
        return base if self.adapter_folder is None else attach_adapter(base, self.adapter_folder)

    def prepare(
        self,
        database: Database,
        dataset_id: int | None,
        max_seq_length: int,
        held_out_dataset_id: int | None = None,
    ) -> NamedDataset:
        """Return a data set tokenized for an evaluation of this model, with all rows of another held out if named.

        Conversations need a chat template: a base model without one gets the default. A fine-tune's format is the one
        that it was trained with, even if that is none.

        Raises `UnknownDataset`, or `DatasetError` for unusable rows, such as those with tokens that the model lacks.
        """
        files = self._files(database, dataset_id, held_out_dataset_id, default_template=self._is_base)
        length = min(max_seq_length, self.context_length)
        prepared = prepare_examples(
            files.rows, self.tokenizer, length, files.tokens, files.held_out_fraction, files.held_out
        )
        require_embeddings(prepared, self.tokenizer, self.vocabulary)
        return NamedDataset(files.name, files.source, prepared)

    def prepare_training(self, database: Database, recipe: TrainingRecipe) -> NamedRows:
        """Return the recipe's data set tokenized for training this model; raises what `prepare` does."""
        # The recipe of an older version's job says nothing of long rows and templates: it goes on as it began.
        is_older = "cut_rows" not in recipe.model_fields_set
        files = self._files(database, recipe.dataset_id, recipe.held_out_dataset_id, default_template=not is_older)
        length = min(recipe.max_seq_length, self.context_length)
        rows, held_out, fraction = files.rows, files.held_out, files.held_out_fraction
        prepared: PreparedRows
        if is_older:
            prepared = prepare_examples(rows, self.tokenizer, length, files.tokens, fraction, held_out)
        else:
            prepared = prepare_training(rows, self.tokenizer, length, files.tokens, recipe.cut_rows, fraction, held_out)
        require_embeddings(prepared, self.tokenizer, self.vocabulary)
        return NamedRows(files.name, files.source, prepared)

    def _files(
        self, database: Database, dataset_id: int | None, held_out_dataset_id: int | None, *, default_template: bool
    ) -> "_Files":
        wanted = dataset_id or BUILT_IN_DATASET_ID
        with database.reading() as session:
            datasets = DatasetRepository(session)
            dataset = datasets.get(wanted)
            if dataset is None:
                raise UnknownDataset(f"There is no data set with the id {wanted}.")
            own = held_out_dataset_id or dataset.settings.get("held_out_dataset_id")
            held_out = datasets.get(own) if own is not None else None
            if own is not None and held_out is None:
                raise UnknownDataset(f"Data set {own}, the held-out rows of data set {wanted}, has been deleted.")
        if default_template and not self.tokenizer.chat_template and is_of_conversations(dataset.report):
            choose_format(self.tokenizer, ChatFormat(chat_template=PLAIN))
        folder = self._settings.datasets_dir
        return _Files(
            dataset.name,
            dataset.source,
            rows_of(folder, dataset.source, dataset.content_hash),
            tokens_dir(folder, dataset.content_hash),
            dataset.settings.get("held_out_fraction", HELD_OUT_FRACTION),
            rows_of(folder, held_out.source, held_out.content_hash) if held_out is not None else None,
        )


@dataclass(frozen=True)
class _Files:
    """A data set on this machine, and what is held out of it."""

    name: str
    source: str
    rows: ExampleRows
    tokens: Path
    held_out_fraction: float
    held_out: ExampleRows | None


def require_embeddings(prepared: PreparedRows, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
    """Raise `DatasetError` for a row with a token beyond the `vocabulary` tokens that the model has embeddings of."""
    if max(tokenizer.get_vocab().values()) < vocabulary:
        return
    for row in chain(prepared.train, prepared.held_out):
        if (largest := int(max(row.input_ids))) >= vocabulary:
            token = tokenizer.convert_ids_to_tokens(largest)
            raise DatasetError(
                f"a row has the token {token!r} (id {largest}), and the model has embeddings of {vocabulary} tokens "
                "only: its tokenizer is not the one that it was trained with"
            )


def _weights(settings: Settings, model: Model) -> tuple[Path, str]:
    """Return the folder of the model's weights, and the name or path by which they are found again."""
    if model.weights is not None:
        folder = settings.weights_dir / model.weights
        return folder, str(folder)
    folder = obtain(
        model.base_model,
        settings.models_dir,
        settings.allow_hub,
        settings.min_free_disk_bytes,
        settings.hub_stall_seconds,
    )
    return folder, model.base_model
