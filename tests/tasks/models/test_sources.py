"""Where a model's parts lie: a full model needs nothing of the base that it descends from."""

import shutil

import pytest
import torch
from transformers import AutoTokenizer

from configs.recipe import TrainingRecipe
from configs.settings import Settings
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.tables import Dataset, Model
from registry.weights import WeightsUnavailable
from tasks.data.examples import DatasetError, Example
from tasks.data.prepared import prepare
from tasks.data.rows import ListedExamples
from tasks.data.store import StoreWriter
from tasks.metrics.perplexity import negative_log_likelihood
from tasks.models.loading import load_base_model
from tasks.models.sources import ModelSource, require_embeddings
from tasks.training.step_backend import PaddedBackend
from tests.tasks.training.job import make_rows


def test_a_model_with_weights_of_its_own_is_loaded_from_them(tiny_llama_dir, tmp_path):
    settings = Settings(data_dir=tmp_path, allow_hub=False, device="cpu", compute_dtype="float32")
    shutil.copytree(tiny_llama_dir, settings.weights_dir / "uid")
    source = ModelSource(settings, Model(base_model="gone", weights="uid"))
    assert source.base_reference == str(source.base_folder) == str(settings.weights_dir / "uid")
    ids = torch.tensor([source.tokenizer("The quick")["input_ids"]])
    expected = load_base_model(tiny_llama_dir, torch.float32, torch.device("cpu"))(ids).logits
    assert torch.equal(source.load()(ids).logits, expected)
    with pytest.raises(WeightsUnavailable, match="gone"):
        ModelSource(settings, Model(base_model="gone"))


def with_tokens(folder, **names):
    """Add tokens that the model in `folder` has no embedding of, as many tokenizers that came later do."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(names)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "names",
    [{"pad_token": "<pad>"}, {"pad_token": "<pad>", "eos_token": "<end>"}, {}],
    ids=["pad", "pad and end", "none"],
)
def test_rows_are_padded_with_a_token_that_the_model_has(tiny_llama_dir, tmp_path, names):
    with_tokens(shutil.copytree(tiny_llama_dir, tmp_path / "models" / "padded"), **names)
    settings = Settings(data_dir=tmp_path, allow_hub=False, device="cpu", compute_dtype="float32")
    source = ModelSource(settings, Model(base_model="padded"))
    model, rows = source.load(), make_rows(6)
    assert len({len(row.input_ids) for row in rows}) > 1
    expected = sum(one.nats for row in rows for one in negative_log_likelihood(model, [row], 0))
    padded = negative_log_likelihood(model, rows, source.pad_token_id)
    assert sum(one.nats for one in padded) == pytest.approx(expected, rel=1e-5)
    backend = PaddedBackend(model, source.pad_token_id)
    assert backend.summed_nll(backend.batch(rows)) == pytest.approx(expected, rel=1e-5)


def test_rows_with_a_token_that_the_model_has_not_are_named(tiny_llama_dir, tmp_path):
    folder = with_tokens(shutil.copytree(tiny_llama_dir, tmp_path / "model"), extra_special_tokens=["<|tool|>"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = len(tokenizer) - 1
    rows = {
        word: ListedExamples([Example.question(f"{word} {n}?", "Yes.") for n in range(40)])
        for word in ("a", "<|tool|>")
    }
    require_embeddings(prepare(rows["a"], tokenizer, 64, tmp_path / "tokens"), tokenizer, vocabulary)
    with pytest.raises(DatasetError, match=rf"'<\|tool\|>' \(id {vocabulary}\), .* of {vocabulary} tokens only"):
        require_embeddings(prepare(rows["<|tool|>"], tokenizer, 64, tmp_path / "tokens"), tokenizer, vocabulary)


def test_a_job_of_an_older_version_goes_on_with_rows_that_are_cut(tiny_models_dir, migrated_sqlite, tmp_path):
    settings = Settings(data_dir=tmp_path, local_models_dir=tiny_models_dir, allow_hub=False, device="cpu")
    settings.data_dir.mkdir(exist_ok=True)
    shutil.copyfile(migrated_sqlite, settings.data_dir / "platform.db")
    database = Database(settings.platform_database_url)
    with StoreWriter(settings.datasets_dir) as writer:
        for number in range(30):
            writer.add(number, Example(text=f"Line {number} of a text that is long. " * 8))
        stored = writer.finish({})
    with database.transaction() as session:
        fields = {"source": "upload", "status": "READY", "settings": {}, "content_hash": stored.fingerprint}
        dataset_id = DatasetRepository(session).add(Dataset(name="texts", uid="texts", **fields)).id
    source = ModelSource(settings, Model(base_model="tiny-gpt2"))
    # What is stored of a job says all that there is to say.
    now = TrainingRecipe.model_validate(TrainingRecipe(max_seq_length=32, dataset_id=dataset_id).hyperparameters())
    older = TrainingRecipe.model_validate(now.model_dump(exclude={"cut_rows", "chat_template"}))
    windows, beginnings = (source.prepare_training(database, recipe).prepared for recipe in (now, older))
    assert beginnings.fingerprint == source.prepare(database, dataset_id, 32).prepared.fingerprint
    assert len(beginnings.train) < 30 < len(windows.train)
    assert beginnings.fingerprint != windows.fingerprint
    database.close()
