"""What a job of any method leaves is served: the engine's greedy text is transformers' own with the trained weights."""

from pathlib import Path

import pytest
import torch

from configs.recipe import Method, TrainingRecipe
from tasks.models.loading import load_tokenizer
from tasks.training.methods import METHODS
from tests.tasks.inference.conftest import greedy, prompt_ids
from tests.tasks.training.job import Recorder, Row, Start, run

NEW_TOKENS = 20


def trained(start: Start, method: Method, root: Path, seed: int) -> tuple[Start, list[int]]:
    """Return the model that a job from `start` leaves, and its greedy text as long as it was in the trainer's hands.

    It learns one answer by heart, of random tokens: a text in which every token counts.
    """
    recipe = TrainingRecipe(method=method, epochs=60, batch_size=1, learning_rate=1e-2)
    model = METHODS[recipe.method].load(start, recipe)
    prompt = prompt_ids(start.base_folder)
    answer = torch.randint(3, 300, (NEW_TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = [Row(prompt + answer, [-100] * len(prompt) + answer)]
    run(model, recipe, root / "checkpoints", Recorder(), rows=rows, held_out=[], compute_dtype=start.dtype)
    ids = torch.tensor([prompt])
    output = model.eval().generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=model.config.vocab_size + 1,
        pad_token_id=0,
    )
    kept = root / "kept"
    METHODS[recipe.method].save(model, kept, start)
    load_tokenizer(start.base_folder).save_pretrained(kept)
    return start.after(recipe.method, kept), output[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    "methods",
    [["lora"], ["rslora"], ["dora"], ["full"], ["full", "rslora", "lora"], ["lora", "dora"]],
    ids="-".join,
)
def test_the_engine_answers_as_the_trained_model_does(make_engine, tiny_llama_dir, tmp_path, methods):
    start, engine = Start(tiny_llama_dir), make_engine()
    seen = [tuple(engine.generate(greedy(start.base_folder, None, NEW_TOKENS)))]
    for number, method in enumerate(methods):
        start, expected = trained(start, method, tmp_path / f"{number}", number)
        request = greedy(start.base_folder, start.adapter_folder, NEW_TOKENS)
        assert engine.generate(request) == expected
        seen.append(tuple(expected))
        assert len(set(expected)) > NEW_TOKENS / 4, "a text that says something"
    assert len(set(seen)) == len(seen), "each job has changed the text"
