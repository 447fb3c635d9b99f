"""The compiled step against transformers, and against itself: any batch, any number of threads, any prompt chunks."""

from itertools import pairwise

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tasks.inference.cpu.decoder import CpuDecoder
from tasks.inference.cpu.panel_product import MULTIPLIES_PAIRS
from tasks.inference.network.shape import shape_of
from tasks.models.loading import load_config
from tests.tasks.inference.adapters import save_adapter
from tests.tasks.inference.test_network import FOREIGN, VARIANTS, Reader, expected, small, texts, wide_llama


@pytest.fixture
def load():
    """Load decoders whose threads end with the test."""
    decoders = []

    def load_decoder(folder, dtype=torch.float32, threads=1, **options):
        decoders.append(CpuDecoder(folder, shape_of(load_config(folder)), dtype, threads, **options))
        return decoders[-1]

    yield load_decoder
    for decoder in decoders:
        decoder.close()


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in FOREIGN])
def test_variants_of_the_family_with_adapters_beside(load, variant, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small(*VARIANTS[variant]))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):  # they begin at zero
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(tmp_path / "base")
    adapters = [None, *(save_adapter(tmp_path / "base", tmp_path / str(rank), rank, rank) for rank in (2, 40))]
    network = load(tmp_path / "base", threads=2)
    numbers = [-1, *(network.load_adapter(adapter).number for adapter in adapters[1:])]
    reader, sequences = Reader(network), texts(99, [90, 33, 60, 12, 1, 75])
    keys = [(100 * place, numbers[place % 3]) for place in range(len(sequences))]
    for begin, end in pairwise((0, 1, 50, 51, 90)):
        pieces = {key: ids[begin:end] for key, ids in zip(keys, sequences, strict=True) if ids[begin:end]}
        logits = reader.step(pieces)
    finished = [place for place, ids in enumerate(sequences) if len(ids) > 51]
    assert len(logits) == len(finished)
    for row, place in zip(logits, finished, strict=True):
        exact = expected(tmp_path / "base", sequences[place], adapters[place % 3])[-1]
        assert torch.allclose(row, exact, atol=2e-5), place


@pytest.mark.parametrize("name", [None, "llama-1"])
def test_greedy_float32_is_generate_token_for_token(load, tiny_llama_dir, adapters_dir, name):
    network = load(tiny_llama_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    number = -1
    if name is not None:
        model = PeftModel.from_pretrained(model, adapters_dir / name)
        number = network.load_adapter(adapters_dir / name).number
    prompts = texts(network.shape.vocabulary, [3, 40, 17], seed=2)
    reader, tokens = Reader(network), prompts
    answers: list[list[int]] = [[] for _ in prompts]
    for _ in range(40):
        chosen = reader.step({(100 * i, number): ids for i, ids in enumerate(tokens)}).argmax(-1).tolist()
        for answer, token in zip(answers, chosen, strict=True):
            answer.append(token)
        tokens = [[token] for token in chosen]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        options = {"do_sample": False, "max_new_tokens": 40, "eos_token_id": 10_000, "pad_token_id": 0}
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        assert output[0, len(prompt) :].tolist() == answer


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """SmolLM2's inner sizes, and two adapters of different ranks."""
    folder = wide_llama(tmp_path_factory.mktemp("wide") / "base")
    return folder, [save_adapter(folder, folder.parent / f"{rank}", rank, rank) for rank in (3, 8)]


WITH_AND_WITHOUT_PAIRS = [{"pairs": pairs} for pairs in {False, MULTIPLIES_PAIRS}]
PRECISIONS = [
    (torch.float32, {}),
    (torch.bfloat16, {"int8": True}),
    *((torch.bfloat16, options) for options in WITH_AND_WITHOUT_PAIRS),
]


@pytest.mark.parametrize(("dtype", "options"), PRECISIONS)
def test_batch_threads_and_prompt_chunks_change_no_bit(load, wide, dtype, options):
    folder, adapters = wide
    crowded, single = (load(folder, dtype, threads=threads, **options) for threads in (3, 1))
    numbers = [-1, *(crowded.load_adapter(adapter).number for adapter in adapters)]
    assert numbers[1:] == [single.load_adapter(adapter).number for adapter in adapters]
    sequences = texts(2000, [1, 2, 5, 9, 33, 70, 100, 130])
    keys = [(140 * place, numbers[place % 3]) for place in range(len(sequences))]
    more = texts(2000, [3] * len(sequences), seed=1)
    batch, alone = Reader(crowded), Reader(single)
    for tokens in [sequences, *([[ids[step]] for ids in more] for step in range(3))]:
        together = batch.step(dict(zip(keys, tokens, strict=True)))
        for key, its, row in zip(keys, tokens, together, strict=True):
            for begin in range(0, len(its), 31):
                last = alone.step({key: its[begin : begin + 31]})[0]
            assert torch.equal(last, row), key


@pytest.mark.parametrize("options", WITH_AND_WITHOUT_PAIRS)
def test_bfloat16_is_nearer_to_the_truth_than_transformers(load, wide, options):
    folder, (adapter, _) = wide
    network, (ids,) = load(folder, torch.bfloat16, **options), texts(2000, [60])
    ours = Reader(network).step({(0, network.load_adapter(adapter).number): ids})[0]
    exact = expected(folder, ids, adapter)[-1]
    theirs = expected(folder, ids, adapter, torch.bfloat16)[-1]
    assert (ours - exact).norm() < (theirs - exact).norm()


def test_int8_stays_near(load, wide):
    folder, _ = wide
    (ids,) = texts(2000, [60])
    ours = Reader(load(folder, torch.bfloat16, int8=True)).step({(0, -1): ids})[0]
    exact = expected(folder, ids)[-1]
    error = (ours - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.03


def test_a_dropped_adapters_slot_is_reused(load, tiny_llama_dir, adapters_dir):
    network, (ids,) = load(tiny_llama_dir), texts(300, [20])
    first = network.load_adapter(adapters_dir / "llama-1").number
    network.drop_adapter(first)
    second = network.load_adapter(adapters_dir / "llama-2")
    assert second.number != first
    logits = Reader(network).step({(0, second.number): ids, (100, -1): ids})
    assert torch.allclose(logits[0], expected(tiny_llama_dir, ids, adapters_dir / "llama-2")[-1], atol=1e-5)
    assert torch.allclose(logits[1], expected(tiny_llama_dir, ids)[-1], atol=1e-5)


def test_logits_only_where_they_are_wanted(load, tiny_llama_dir):
    network, sequences = load(tiny_llama_dir), texts(300, [9, 4, 11])
    pieces = {(50 * place, -1): ids for place, ids in enumerate(sequences)}
    last = Reader(network).step(pieces)
    every = Reader(network).step(pieces, [True] * 24)
    assert torch.equal(every[[8, 12, 23]], last)
    for wanted in ([8, 23], [0, 1, 7, 12], [5], []):
        assert torch.equal(Reader(network).step(pieces, [place in wanted for place in range(24)]), every[wanted])
    assert torch.allclose(every[13:], expected(tiny_llama_dir, sequences[2]), atol=1e-5)
