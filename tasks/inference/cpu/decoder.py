"""A `Network` for CPUs and the Llama family: weights in panels, one compiled function per step."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from tasks.inference.cpu.adapters import PRODUCTS, AdapterMemory
from tasks.inference.cpu.compiled import compiled_step, supported
from tasks.inference.cpu.packing import pack, packed_bytes, stored
from tasks.inference.cpu.panel_product import GROUP, MULTIPLIES_PAIRS
from tasks.inference.cpu.records import Array, Matrix, Model, Work
from tasks.inference.cpu.team import Team
from tasks.inference.cpu.work import Scratch, plain_batch
from tasks.inference.network.adapter_weights import AdapterReader
from tasks.inference.network.shape import Shape
from tasks.inference.network.step import KVArena, LoadedAdapter, StepBatch
from tasks.inference.network.weights import Weights, take_weights
from tasks.models.loading import load_base_model, load_config

_CPU = torch.device("cpu")
_DTYPES = (torch.float32, torch.bfloat16)
_POSITIONS = 1024
"""The rotary table grows by so many positions at a time."""


def computes(shape: Shape, dtype: torch.dtype, int8: bool = False) -> bool:
    """Whether `CpuDecoder` computes this base on this machine."""
    whole_groups = all(product.inputs % GROUP == 0 for product in shape.products.values())
    return shape.family == "llama" and dtype in _DTYPES and (whole_groups or not int8) and supported()


def bytes_of(shape: Shape, dtype: torch.dtype, int8: bool = False) -> int:
    """Return the bytes that `CpuDecoder` will take for this base; a tied head is packed beside the embedding."""
    width = shape.products["qkv"].inputs
    products = [
        packed_bytes(shape.layers, product.inputs, tuple(outputs for _, outputs in product.parts), dtype.itemsize, int8)
        for product in shape.products.values()
    ]
    head = packed_bytes(1, width, (shape.vocabulary,), dtype.itemsize, int8)
    norms = (2 * shape.layers + 1) * width * torch.float32.itemsize
    return sum(products) + head + norms + shape.vocabulary * width * dtype.itemsize


class CpuDecoder:
    """A base of the Llama family in memory, with its adapters. float32 or bfloat16; `int8` packs the weights tighter.

    Sums and the residual stream are float32 throughout; keys, values and adapters have the base's dtype, as has what
    goes into a product of bfloat16 where the chip multiplies those in pairs (`pairs`). A row's numbers are the same,
    bit for bit, whatever else the batch holds and however a prompt was cut into steps.
    """

    def __init__(
        self,
        folder: Path,
        shape: Shape,
        dtype: torch.dtype,
        threads: int,
        int8: bool = False,
        pairs: bool = MULTIPLIES_PAIRS,
    ) -> None:
        """Load the base in `folder` and compile the step; raises `WeightsError` if the base can't be loaded."""
        pairs = pairs and dtype == torch.bfloat16 and not int8
        self.shape = shape
        self._dtype = dtype
        weights = take_weights(load_base_model(folder, dtype, _CPU), shape)
        if weights.inverse_frequencies is None:
            raise ValueError(f"this step has rotary positions, the {shape.family} family none")
        self._frequencies, self._rotary_scale = weights.inverse_frequencies, weights.rotary_scale
        self._model = _packed_model(weights, shape, int8, pairs)
        self.bytes = _nbytes(self._model)
        self._reader = AdapterReader(load_config(folder), shape, dtype, _CPU)
        self._adapters = AdapterMemory(shape, dtype, pairs)
        self._slots = {-1: -1}
        self._numbered = 0
        self._scratch = Scratch(self._model, threads, np.uint16 if pairs else np.float32)
        self._step = compiled_step()
        self._team = Team(1)
        self._warm_up()
        self._team = Team(threads)

    def allocate(self, capacity: int) -> KVArena:
        """Return an arena for `capacity` tokens."""
        return KVArena.allocate(self.shape, capacity, self._dtype, _CPU)

    def load_adapter(self, folder: Path) -> LoadedAdapter:
        """Load the adapter in `folder`; raises `WeightsError` if it can't be served."""
        slot, size = self._adapters.add(self._reader.read(folder))
        number, self._numbered = self._numbered, self._numbered + 1
        self._slots[number] = slot
        return LoadedAdapter(number, size)

    def drop_adapter(self, number: int) -> None:
        """Free an adapter that no sequence uses any more."""
        self._adapters.drop(self._slots.pop(number))

    def step(self, batch: StepBatch, arena: KVArena) -> Tensor:
        """Read the tokens into the arena; return float32 `[number of wants_logits, vocabulary]`."""
        return torch.from_numpy(self._run(batch, arena).logits)[:, : self.shape.vocabulary]

    def sum_states(self, batch: StepBatch, arena: KVArena) -> Tensor:
        """Read the tokens into the arena; return float32 `[sequences, width]`: their states after the last norm."""
        work = self._run(replace(batch, wants_logits=torch.zeros_like(batch.wants_logits)), arena)
        # Text by text, not all rows at once: the other texts of a batch must change no bit of a sum.
        texts = torch.split(torch.from_numpy(work.states), batch.first.diff().tolist())
        weight = torch.from_numpy(self._model.final_norm)
        return torch.stack([rms_norm(text, weight.shape, weight, self._model.epsilon).sum(0) for text in texts])

    def close(self) -> None:
        """End the threads."""
        self._team.close()

    def _run(self, batch: StepBatch, arena: KVArena) -> Work:
        """Compute a step; its results lie in scratch memory until the next, the logits in memory of their own."""
        slots = [self._slots[number] for number in batch.adapter.tolist()]
        plain = plain_batch(batch, slots)
        length = int((plain.slots - plain.begins).max()) + 1
        self._reach(int(plain.positions.max()))
        work = self._scratch.fit(len(plain.token_ids), len(plain.wanted), length, self._adapters.low_depth)
        keys, values = stored(arena.keys), stored(arena.values)
        self._team.run(self._step, self._model, self._adapters.tables, plain, work, keys, values)
        return work

    def _reach(self, position: int) -> None:
        """Extend the rotary tables to `position`."""
        if position < len(self._model.cosines):
            return
        positions = torch.arange(-(-(position + 1) // _POSITIONS) * _POSITIONS)
        angles = positions[:, None].float() * self._frequencies
        cosines, sines = (table.numpy() * np.float32(self._rotary_scale) for table in (angles.cos(), angles.sin()))
        self._model = self._model._replace(cosines=cosines, sines=sines)

    def _warm_up(self) -> None:
        one = torch.zeros(1, dtype=torch.int64)
        batch = StepBatch(
            one, one, torch.tensor([0, 1], dtype=torch.int32), one, one.int(), one.int() - 1, torch.tensor([True])
        )
        self.step(batch, self.allocate(1))


def _packed_model(weights: Weights, shape: Shape, int8: bool, pairs: bool) -> Model:
    def product(name: str) -> Matrix:
        affines = [layer.products[name] for layer in weights.layers]  # type: ignore[index]
        parts = tuple(outputs for _, outputs in shape.products[name].parts)  # type: ignore[index]
        return pack([affine.weight for affine in affines], [affine.bias for affine in affines], parts, int8, pairs)

    def norms(tensors: list[Tensor]) -> Array:
        return torch.stack([tensor.float() for tensor in tensors]).numpy()

    qkv, output, up, down = (product(name) for name in PRODUCTS)
    head = pack([weights.head], [None], (shape.vocabulary,), int8, pairs)
    return Model(
        embedding=stored(weights.embedding),
        attention_norms=norms([layer.attention_norm.weight for layer in weights.layers]),
        mlp_norms=norms([layer.mlp_norm.weight for layer in weights.layers]),
        final_norm=norms([weights.final_norm.weight])[0],
        cosines=np.zeros((0, shape.head_dim // 2), dtype=np.float32),
        sines=np.zeros((0, shape.head_dim // 2), dtype=np.float32),
        matrices=(qkv, output, up, down, head),
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        epsilon=shape.epsilon,
    )


def _nbytes(model: Model) -> int:
    fields = (*model, *(field for matrix in model.matrices for field in matrix))
    return sum(field.nbytes for field in fields if isinstance(field, np.ndarray))
