"""A trained model as files: what other programs read from them gives what the platform's own model gives."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.settings import Settings
from registry.tables import Model
from tasks.models.export import GGUF_FILE, TOLERANCE, ExportImpossible, export_model
from tasks.models.loading import attach_adapter, load_base_model
from tasks.models.sources import ModelSource
from tests.tasks.inference.adapters import save_adapter

TEXT = "Return the absolute value of 1234."


@pytest.fixture
def source_of(tmp_path, tiny_models_dir):
    """What a record of a base, or of a fine-tune of it, means."""
    settings = Settings(data_dir=tmp_path, local_models_dir=tiny_models_dir, device="cpu", compute_dtype="float32")

    def source(base_model="tiny-llama", tuned=True):
        adapter = None
        if tuned:
            adapter = "tuned"
            tokenizer = AutoTokenizer.from_pretrained(tiny_models_dir / base_model)
            tokenizer.save_pretrained(
                save_adapter(tiny_models_dir / base_model, settings.adapters_dir / adapter, seed=1)
            )
        return ModelSource(settings, Model(name="Tiny", base_model=base_model, adapter=adapter))

    return source


def logits(model, tokenizer):
    with torch.inference_mode():
        return model(**tokenizer(TEXT, return_tensors="pt")).logits


def test_merged_weights_answer_as_base_and_adapter_do(source_of, tmp_path):
    source = source_of()
    exported = export_model(source, "merged", tmp_path / "out")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(exported.files)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    expected = logits(source.load(), source.tokenizer)
    torch.testing.assert_close(logits(merged, tokenizer), expected, atol=1e-5, rtol=1e-4)
    base = load_base_model(source.base_folder, torch.float32, source.device)
    assert (expected - logits(base, tokenizer)).abs().max() > 1e-3  # the adapter matters
    assert tokenizer.chat_template == source.tokenizer.chat_template


def test_an_adapter_is_exported_as_it_is(source_of, tmp_path):
    source = source_of()
    export_model(source, "peft", tmp_path / "out")
    again = attach_adapter(source.load_base(), tmp_path / "out")
    assert torch.equal(logits(again, source.tokenizer), logits(source.load(), source.tokenizer))
    with pytest.raises(ExportImpossible, match="no adapter"):
        export_model(source_of(tuned=False), "peft", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_gguf_file_read_back_gives_the_logits_of_the_merged_model(source_of, tmp_path):
    source = source_of()
    exported = export_model(source, "gguf", tmp_path / "out")
    assert exported.files == [GGUF_FILE]
    assert exported.difference <= TOLERANCE
    file = {"gguf_file": GGUF_FILE, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, **file).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", **file)
    assert tokenizer.chat_template == source.tokenizer.chat_template
    expected = logits(source.load(), source.tokenizer)
    torch.testing.assert_close(logits(model, tokenizer), expected, atol=TOLERANCE, rtol=0)


def test_another_family_is_refused_as_gguf_and_leaves_nothing(source_of, tmp_path):
    with pytest.raises(ExportImpossible, match="gpt2"):
        export_model(source_of("tiny-gpt2", tuned=False), "gguf", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
