"""A folder with a GGUF file: refused by its header if something would be left out, else converted once."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from registry.gguf_file import gguf_defect
from registry.weights import WeightsUnavailable, locate, obtain, probe
from tasks.models.loading import load_base_model
from tests.gguf_models import tiny_model, write
from tests.tiny_models import CHAT_TEMPLATE, byte_level_tokenizer

ROOT = Path(__file__).parents[2]
NAME = "org/model"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and its GGUF file alone in a folder."""
    tokenizer = byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], CHAT_TEMPLATE)
    model = tiny_model("qwen2", len(tokenizer))
    folder = tmp_path_factory.mktemp("gguf")
    write(folder / "model.gguf", model, tokenizer)
    return model, tokenizer, folder


@pytest.fixture
def models_dir(made, tmp_path):
    shutil.copytree(made[2], tmp_path / NAME)
    return tmp_path


LEFT_OUT = {
    "qwen2.rope.scaling.factor": 8.0,
    "qwen2.attention.sliding_window": 64.0,
    "qwen2.final_logit_softcapping": 30.0,
    "qwen2.expert_count": 8.0,
}


@pytest.mark.parametrize("key", LEFT_OUT)
def test_a_setting_that_would_be_left_out_is_named(made, tmp_path, key):
    model, tokenizer, _ = made
    write(tmp_path / "it.gguf", model, tokenizer, metadata={key: LEFT_OUT[key]})
    assert f"it.gguf has {key}, which would be left out" in gguf_defect(tmp_path)


def test_a_scaled_rope_is_named(made, tmp_path):
    model, tokenizer, _ = made
    write(tmp_path / "it.gguf", model, tokenizer, metadata={"qwen2.rope.scaling.type": "yarn"})
    assert "qwen2.rope.scaling.type, which would be left out" in gguf_defect(tmp_path)


def test_a_splitter_that_is_not_known_is_named(made, tmp_path):
    model, tokenizer, _ = made
    write(tmp_path / "it.gguf", model, tokenizer, splitter="poro-chat")
    assert "cuts words as poro-chat, of which nothing is known here" in gguf_defect(tmp_path)


def patched(folder, old, new):
    """Change the file's bytes, and no length."""
    file = folder / "model.gguf"
    content = file.read_bytes()
    assert content.count(old) > 0
    assert len(old) == len(new)
    file.write_bytes(content.replace(old, new))


def cut(folder, length):
    file = folder / "model.gguf"
    file.write_bytes(file.read_bytes()[:length])


FOUR = b"\x04\0\0\0\0\0\0\0"
DAMAGES = {
    "another architecture": (
        lambda folder: patched(folder, b"qwen2", b"jamba"),
        "has the architecture jamba, and GGUF is read for llama, qwen2, qwen3",
    ),
    "another tokenizer": (
        lambda folder: patched(folder, FOUR + b"gpt2", FOUR + b"bert"),
        "has a tokenizer of the kind bert, and gpt2 and llama are read",
    ),
    "another tensor": (
        lambda folder: patched(folder, b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"),
        "has blk.0.attn_x.weight, which would be left out",
    ),
    "another version": (
        lambda folder: patched(folder, b"GGUF\x03\0\0\0", b"GGUF\x09\0\0\0"),
        "it is of version 9, and 2 and 3 are read",
    ),
    "no GGUF file": (
        lambda folder: (folder / "model.gguf").write_text("<html>" + " " * 99),
        "it does not begin with GGUF",
    ),
    "an empty file": (lambda folder: (folder / "model.gguf").write_bytes(b""), "it does not begin with GGUF"),
    "cut in its tokens": (
        lambda folder: cut(folder, 2000),
        "can't be read (its header is cut short or damaged): download it again",
    ),
    "cut in its weights": (lambda folder: cut(folder, 20_000), "can't be read (it is cut short): download it again"),
    "in two parts": (
        lambda folder: shutil.copy(folder / "model.gguf", folder / "mmproj.gguf"),
        "holds 2 GGUF files (mmproj.gguf and model.gguf): leave the one that is meant, in one piece",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_can_not_be_converted_says_why(models_dir, name):
    damage, said = DAMAGES[name]
    assert probe(NAME, models_dir, allow_hub=False, min_free_bytes=0).status == "AVAILABLE"
    damage(models_dir / NAME)
    found = probe(NAME, models_dir, allow_hub=True)
    assert (found.status, found.reason.endswith(".")) == ("UNAVAILABLE", True)
    assert said in found.reason
    with pytest.raises(WeightsUnavailable) as raised:
        obtain(NAME, models_dir, allow_hub=False)
    assert said in str(raised.value)


def test_a_file_is_converted_when_it_is_needed(made, models_dir):
    found = probe(NAME, models_dir, allow_hub=False, min_free_bytes=0)
    assert (found.status, found.model_size) == ("AVAILABLE", f"{round(made[0].num_parameters() / 1000)}K")
    assert locate(NAME, models_dir) is None
    folder = obtain(NAME, models_dir, allow_hub=False, min_free_bytes=0)
    assert folder == locate(NAME, models_dir) == models_dir / NAME
    assert not [*folder.glob(".converting-*")]
    again = load_base_model(folder, torch.float32, torch.device("cpu"))
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, made[0](ids).logits)
    changed = (folder / "model.safetensors").stat().st_mtime_ns
    assert obtain(NAME, models_dir, allow_hub=False) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == changed


def test_two_that_need_it_at_once_convert_it_once(models_dir):
    program = (
        "import sys; from pathlib import Path; from registry.weights import obtain; "
        f"print((obtain({NAME!r}, Path(sys.argv[1]), False, 0) / 'model.safetensors').stat().st_ino)"
    )
    command = [sys.executable, "-c", program, str(models_dir)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert said[0] == said[1] != ""


def test_a_conversion_that_was_killed_leaves_no_half_model(models_dir):
    folder = models_dir / NAME
    (folder / ".converting-old").mkdir()
    (folder / ".converting-old" / "model.safetensors").write_bytes(b"half")
    (folder / "model.safetensors").write_bytes(b"half")  # moved, as all but config.json had been
    assert locate(NAME, models_dir) is None
    obtain(NAME, models_dir, allow_hub=False, min_free_bytes=0)
    assert not (folder / ".converting-old").exists()
    assert (folder / "model.safetensors").stat().st_size > 1000


def test_no_room_for_the_weights_is_said_with_both_numbers(models_dir):
    found = probe(NAME, models_dir, allow_hub=False, min_free_bytes=10**18)
    assert found.status == "UNAVAILABLE"
    assert "takes 0.0 GB of disk" in found.reason
    with pytest.raises(WeightsUnavailable, match=r"takes 0\.0 GB of disk"):
        obtain(NAME, models_dir, allow_hub=False, min_free_bytes=10**18)
