"""GGUF files become folders whose models are those that the files were made of: to the bit, token for token."""

import json

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaTokenizer, PreTrainedTokenizerFast

from tasks.models import gguf_reading
from tasks.models.gguf_reading import SAMPLE, GgufUnfit, convert
from tests.gguf_models import tiny_model, write
from tests.tiny_models import CHAT_TEMPLATE, CORPUS, byte_level_tokenizer

IDS = torch.arange(5, 45)[None]
TEXTS = (
    SAMPLE,
    "a1b22  333",
    "\n\n12. x",
    "    if x == 10:\n\treturn 'l\u2019été'  # 3½",
    " DON'T 1st",
    "٣٤٥ 一二三 🙂🙂",
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = rf"{WORDS}|\p{{N}}{{1,3}}|{REST}"
QWEN_2 = rf"{WORDS}|\p{{N}}|{REST}"
SPLITTERS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), BYTES]),
    "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_2), "isolated"), BYTES]),
}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], CHAT_TEMPLATE)


@pytest.fixture
def folders(tmp_path):
    """Where the file is, and where the model goes."""
    for name in ("file", "model"):
        (tmp_path / name).mkdir()
    return tmp_path / "file" / "it.gguf", tmp_path / "model"


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_converted_model_answers_to_the_bit_as_the_one_it_was_made_of(folders, tokenizer, architecture, tied):
    file, folder = folders
    model = tiny_model(architecture, len(tokenizer), tie_word_embeddings=tied, rope_parameters={"rope_theta": 5e4})
    write(file, model, tokenizer)
    convert(file, folder)
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert again.dtype == torch.float32
    assert torch.equal(logits(again), logits(model))
    kept = ("max_position_embeddings", "rms_norm_eps", "head_dim", "num_key_value_heads", "tie_word_embeddings")
    assert all(getattr(again.config, name) == getattr(model.config, name) for name in kept)


def test_transformers_own_reader_finds_the_same(folders, tokenizer):
    file, folder = folders
    # It reads no width of a head but what the heads share evenly.
    write(file, tiny_model("llama", len(tokenizer), head_dim=16), tokenizer, metadata={"general.name": "tiny"})
    convert(file, folder)
    options = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, **options).eval()
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder).eval()), logits(theirs))


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (GGMLQuantizationType.F16, torch.float16),
        (GGMLQuantizationType.BF16, torch.bfloat16),
        (GGMLQuantizationType.Q8_0, torch.bfloat16),
        (GGMLQuantizationType.Q4_0, torch.bfloat16),
        (GGMLQuantizationType.Q5_1, torch.bfloat16),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_packed_weights_are_unpacked_into_the_type_that_holds_them(folders, tokenizer, stored, dtype):
    file, folder = folders
    model = tiny_model("qwen2", len(tokenizer), tie_word_embeddings=False)
    write(file, model, tokenizer, stored=stored)
    convert(file, folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert again.dtype == dtype
    for name, values in again.state_dict().items():
        expected = model.state_dict()[name]
        if expected.dim() == 2:
            expected = torch.from_numpy(dequantize(quantize(expected.numpy(), stored), stored))
        assert torch.equal(values, expected.to(dtype)), name


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize("splitter", SPLITTERS)
def test_a_byte_level_tokenizer_cuts_texts_as_the_one_it_was_made_of(folders, tokenizer, splitter, add_bos):
    file, folder = folders
    original = PreTrainedTokenizerFast.from_pretrained(saved(tokenizer, folder.parent / "original"))
    original.backend_tokenizer.pre_tokenizer = SPLITTERS[splitter]
    write(file, tiny_model("llama", len(tokenizer)), original, splitter=splitter, add_bos=add_bos)
    convert(file, folder)
    again = AutoTokenizer.from_pretrained(folder)
    begun = [original.bos_token_id] if add_bos else []
    for text in TEXTS:
        assert again(text)["input_ids"] == [*begun, *original(text)["input_ids"]], text
        assert again.decode(original(text)["input_ids"]) == text
    turns = [{"role": "user", "content": "12 cats"}]
    expected = original.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert again.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] == expected
    assert (again.eos_token, again.model_max_length) == ("<|im_end|>", 128)


def test_a_sentencepiece_tokenizer_cuts_texts_as_the_one_it_was_made_of(folders):
    file, folder = folders
    original = sentencepiece_tokenizer()
    write(file, tiny_model("llama", len(original)), original)
    convert(file, folder)
    again = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = original(text)["input_ids"]
        assert again(text)["input_ids"] == ids, text
        assert ids[0] == original.bos_token_id
        assert again.decode(ids, skip_special_tokens=True) == original.decode(ids, skip_special_tokens=True)


def sentencepiece_tokenizer():
    """Return a tokenizer like Llama 2's: words begin with a mark, and what is not known is written in bytes."""
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learned.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=first, show_progress=False))
    parts = json.loads(learned.to_str())["model"]
    # As the files of such models have it: pieces in the order in which they were learned, then letters.
    merged = ["".join(pair) for pair in parts["merges"]]
    letters = [token for token in parts["vocab"] if token not in {*first, *merged}]
    order = dict.fromkeys([*first, *merged, *letters])
    return LlamaTokenizer(
        vocab={token: number for number, token in enumerate(order)},
        merges=[tuple(pair) for pair in parts["merges"]],
        add_bos_token=True,
    )


def saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return folder


def test_large_weights_are_written_in_several_files(folders, tokenizer, monkeypatch):
    file, folder = folders
    monkeypatch.setattr(gguf_reading, "SHARD_BYTES", 50_000)
    model = tiny_model("qwen3", len(tokenizer))
    write(file, model, tokenizer)
    convert(file, folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len({*index["weight_map"].values()}) == len([*folder.glob("*.safetensors")]) > 2
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder).eval()), logits(model))


def test_a_tensor_that_has_no_place_is_named(folders, tokenizer):
    file, folder = folders
    model = tiny_model("llama", len(tokenizer), attention_bias=True)
    write(file, model, tokenizer)
    with pytest.raises(GgufUnfit, match=r"blk\.0\.attn_k\.bias is not in the model"):
        convert(file, folder)
