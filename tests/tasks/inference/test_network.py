"""The numeric core against transformers: prompts in pieces, many sequences in one step, each with its own adapter."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from tasks.inference.network.adapter_weights import adapter_bytes
from tasks.inference.network.attention import window
from tasks.inference.network.decoder import Decoder
from tasks.inference.network.load import load_network, needed_for_adapter
from tasks.inference.network.shape import shape_of
from tasks.inference.network.step import StepBatch
from tasks.models.errors import WeightsError
from tasks.models.loading import load_config
from tests.tasks.inference.adapters import save_adapter

CPU = torch.device("cpu")
SMOL = Path("data/models/HuggingFaceTB/SmolLM2-135M-Instruct")


def in_torch(folder, dtype, device=CPU):
    """Return the implementation in torch, also where a CPU would be given the compiled one."""
    return Decoder(folder, shape_of(load_config(folder)), dtype, device)


class Reader:
    """Feeds a network and keeps the books of its sequences: `(start, adapter)` is one, `cached` its tokens so far."""

    def __init__(self, network, capacity=4000):
        self.network, self.arena, self.cached = network, network.allocate(capacity), {}

    def step(self, pieces, wanted=None):
        """Read `{(start, adapter): ids}`; return the logits after every sequence's last token, or the `wanted`."""
        ids = [torch.tensor(its) for its in pieces.values()]
        cached = [self.cached.get(key, 0) for key in pieces]
        lengths = torch.tensor([0] + [len(its) for its in ids])
        last = torch.zeros(int(lengths.sum()), dtype=torch.bool)
        last[lengths.cumsum(0)[1:] - 1] = True
        for key, its in pieces.items():
            self.cached[key] = self.cached.get(key, 0) + len(its)
        return self.network.step(
            StepBatch(
                token_ids=torch.cat(ids),
                positions=torch.cat([known + torch.arange(len(its)) for known, its in zip(cached, ids, strict=True)]),
                first=lengths.cumsum(0).int(),
                cache_start=torch.tensor([start for start, _ in pieces]),
                cached=torch.tensor(cached, dtype=torch.int32),
                adapter=torch.tensor([adapter for _, adapter in pieces], dtype=torch.int32),
                wants_logits=last if wanted is None else torch.tensor(wanted),
            ),
            self.arena,
        )


def texts(vocabulary, lengths, seed=0):
    dice = torch.Generator().manual_seed(seed)
    return [torch.randint(vocabulary, (length,), generator=dice).tolist() for length in lengths]


def expected(folder, ids, adapter=None, dtype=torch.float32):
    """Transformers' logits after every token of `ids`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
    with torch.inference_mode():
        return model.eval()(torch.tensor([ids])).logits[0].float()


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_sequences_of_any_length_and_adapter_side_by_side(tiny_models_dir, adapters_dir, model):
    folder = tiny_models_dir / f"tiny-{model}"
    network = in_torch(folder, torch.float32)
    folders = [None, *sorted(adapters_dir.glob(f"{model}-*"))]
    numbers = [-1, *(network.load_adapter(each).number for each in folders[1:])]
    reader, lengths = Reader(network), [1, 5, 70, 33, 2, 100]
    sequences = texts(network.shape.vocabulary, lengths)
    keys = [(130 * place, numbers[place % len(numbers)]) for place in range(len(lengths))]
    wanted = [expected(folder, ids, folders[i % len(folders)]) for i, ids in enumerate(sequences)]
    done = [0] * len(lengths)
    for piece in (1, 3, 40, 1, 1, 60, 60):  # each sequence at its own pace, some still reading while others decode
        now = {}
        for i, ids in enumerate(sequences):
            count = min(piece if i % 2 else 1, len(ids) - done[i])
            if count:
                now[keys[i]] = ids[done[i] : done[i] + count]
        logits = reader.step(now)
        for key, row in zip(now, logits, strict=True):
            i = keys.index(key)
            done[i] += len(now[key])
            assert torch.allclose(row, wanted[i][done[i] - 1], atol=1e-5), (i, done[i])


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WIDE_HEADS = {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True, "head_dim": 16}
VARIANTS = {
    "scaled rope": (LlamaConfig, {"rope_parameters": LLAMA3_ROPE}),
    "yarn": (LlamaConfig, {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}}),
    "untied, biased, wide heads": (LlamaConfig, WIDE_HEADS),
    "qwen2": (Qwen2Config, {}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "sliding window": (MistralConfig, {"sliding_window": 16}),
    "dynamic rope": (
        LlamaConfig,
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
}
FOREIGN = {"sliding window", "dynamic rope"}


def small(kind, options):
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    return kind(**(sizes | heads | options))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_and_foreign_architectures(variant, tmp_path):
    config = small(*VARIANTS[variant])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # they begin at zero
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(tmp_path / "base")
    foreign = shape_of(load_config(tmp_path / "base")) is None
    assert foreign == (variant in FOREIGN)
    network = (
        load_network(tmp_path / "base", torch.float32, CPU) if foreign else in_torch(tmp_path / "base", torch.float32)
    )
    adapter = save_adapter(tmp_path / "base", tmp_path / "adapter", seed=1)
    number = network.load_adapter(adapter).number
    reader, (ids,) = Reader(network), texts(99, [90])
    reader.step({(0, number): ids[:50], (100, -1): ids[:20]})
    reader.step({(0, number): ids[50:89], (100, -1): ids[20:21]})
    logits = reader.step({(0, number): ids[89:], (100, -1): ids[21:90]})
    assert torch.allclose(logits[0], expected(tmp_path / "base", ids, adapter)[-1], atol=1e-5)
    assert torch.allclose(logits[1], expected(tmp_path / "base", ids)[-1], atol=1e-5)


def wide_llama(folder):
    """A model with SmolLM2's inner sizes, two layers of it: small products are not cut into blocks."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=2000, max_position_embeddings=1024)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = wide_llama(tmp_path_factory.mktemp("wide") / "base")
    return folder, [save_adapter(folder, folder.parent / f"{rank}", rank, rank) for rank in (3, 8)]


def test_in_bfloat16_the_batch_changes_no_bit(wide):
    folder, adapters = wide
    network = in_torch(folder, torch.bfloat16)
    numbers = [-1, *(network.load_adapter(adapter).number for adapter in adapters)]
    sequences = texts(2000, [1, 2, 5, 9, 64, 70, 100, 130] * 3)
    keys = [(140 * place, numbers[place % 3]) for place in range(len(sequences))]
    more = texts(2000, [3] * len(sequences), seed=1)
    batch, alone = Reader(network), Reader(network)
    steps = [sequences, *([[ids[step]] for ids in more] for step in range(3))]
    for tokens in steps:
        together = batch.step(dict(zip(keys, tokens, strict=True)))
        for key, its, row in zip(keys, tokens, together, strict=True):
            assert torch.equal(alone.step({key: its})[0], row), key


def test_bfloat16_is_as_near_as_transformers(wide):
    folder, (adapter, _) = wide
    network = in_torch(folder, torch.bfloat16)
    (ids,) = texts(2000, [60])
    ours = Reader(network).step({(0, network.load_adapter(adapter).number): ids})[0]
    exact = expected(folder, ids, adapter)[-1]
    theirs = expected(folder, ids, adapter, torch.bfloat16)[-1]
    assert (ours - exact).norm() < 1.5 * (theirs - exact).norm()


def test_windows_are_little_longer_and_few():
    lengths = range(1, 8193)
    assert all(length <= window(length) <= max(length + 63, 1.25 * length) for length in lengths)
    assert len({window(length) for length in lengths}) < 40


def test_adapter_bytes_are_known_before_loading(tiny_llama_dir, tiny_gpt2_dir, adapters_dir):
    for folder, name in ((tiny_llama_dir, "llama-1"), (tiny_llama_dir, "llama-2"), (tiny_gpt2_dir, "gpt2-1")):
        network = load_network(folder, torch.float32, CPU)
        loaded = network.load_adapter(adapters_dir / name)
        assert loaded.bytes == needed_for_adapter(folder, adapters_dir / name, torch.float32, CPU)
        torch_only = in_torch(folder, torch.float32)
        shape = shape_of(load_config(folder))
        assert torch_only.load_adapter(adapters_dir / name).bytes == adapter_bytes(
            adapters_dir / name, shape, torch.float32
        )


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_adapters_that_are_not_served_are_named(tiny_llama_dir, adapters_dir, tmp_path):
    folder = shutil.copytree(adapters_dir / "llama-1", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(WeightsError, match="DoRA"):
        load_network(tiny_llama_dir, torch.float32, CPU).load_adapter(folder)
    base = LlamaForCausalLM(small(LlamaConfig, {"tie_word_embeddings": False}))
    base.save_pretrained(tmp_path / "base")
    get_peft_model(base, LoraConfig(target_modules=["q_proj", "lm_head"])).save_pretrained(tmp_path / "head")
    with pytest.raises(WeightsError, match="changes lm_head"):
        load_network(tmp_path / "base", torch.float32, CPU).load_adapter(tmp_path / "head")


def test_an_adapter_with_a_number_that_is_none_is_refused(tiny_llama_dir, adapters_dir, tmp_path):
    folder = shutil.copytree(adapters_dir / "llama-1", tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        load_network(tiny_llama_dir, torch.float32, CPU).load_adapter(folder)


@pytest.mark.skipif(not SMOL.is_dir(), reason="the starter model is not there: make model")
def test_smollm2_answers_as_transformers_does():
    network = in_torch(SMOL, torch.float32)
    model = AutoModelForCausalLM.from_pretrained(SMOL, dtype=torch.float32)
    assert shape_of(load_config(SMOL)) is not None
    prompts = texts(49152, [3, 40], seed=2)
    reader = Reader(network)
    answers: list[list[int]] = [[], []]
    tokens = prompts
    for _ in range(6):
        chosen = reader.step({(200 * i, -1): ids for i, ids in enumerate(tokens)}).argmax(-1).tolist()
        answers = [[*answer, token] for answer, token in zip(answers, chosen, strict=True)]
        tokens = [[token] for token in chosen]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
        assert output[0, len(prompt) :].tolist() == answer
