import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_tiny_model_round_trips_text_and_computes_logits(tiny_models_dir, name):
    tokenizer = AutoTokenizer.from_pretrained(tiny_models_dir / name)
    model = AutoModelForCausalLM.from_pretrained(tiny_models_dir / name)
    batch = tokenizer("naïve café 🦊", return_tensors="pt")
    assert tokenizer.decode(batch["input_ids"][0]) == "naïve café 🦊"
    assert model(batch["input_ids"]).logits.shape == (1, batch["input_ids"].shape[1], len(tokenizer))
