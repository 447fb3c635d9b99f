"""Llama and GPT-2 decoders over ragged batches, in plain torch with few operators."""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig

from tasks.inference.network.adapter_weights import AdapterReader
from tasks.inference.network.adapters import AdapterPlan, AdapterTable
from tasks.inference.network.attention import AttentionPlan
from tasks.inference.network.shape import ProductName, Shape
from tasks.inference.network.step import KVArena, LoadedAdapter, StepBatch
from tasks.inference.network.weights import Affine, take_weights
from tasks.models.loading import load_base_model, load_config

LEAST_ROWS = 2
"""A single row would go to a matrix-vector kernel, which rounds differently: results must not depend on the batch."""


class Decoder:
    """A `Network` (see `step.py`) for the families that `shape_of` knows."""

    def __init__(self, folder: Path, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        """Load the base in `folder`; raises `WeightsError` if that fails."""
        config: PretrainedConfig = load_config(folder)
        self.shape = shape
        self._weights = take_weights(load_base_model(folder, dtype, device), shape)
        self.bytes = self._weights.bytes
        self._dtype, self._device = dtype, device
        self._reader = AdapterReader(config, shape, dtype, device)
        self._adapters = AdapterTable()
        self._adapter_sizes: dict[int, int] = {}

    def allocate(self, capacity: int) -> KVArena:
        """Return an arena for `capacity` tokens on the network's device."""
        return KVArena.allocate(self.shape, capacity, self._dtype, self._device)

    def release(self, cache_start: int) -> None:
        """Do nothing: what a sequence leaves in the arena is never read by another."""

    def close(self) -> None:
        """Do nothing: it is memory only."""

    def load_adapter(self, folder: Path) -> LoadedAdapter:
        """Load the adapter in `folder`; raises `WeightsError` if it can't be served."""
        layers = self._reader.read(folder)
        tensors = [tensor for layer in layers for factors in layer.values() for tensor in (factors.down, factors.up)]
        # Twice: its own tensors, and its place in the stack of a batch.
        return LoadedAdapter(self._adapters.add(layers), 2 * sum(tensor.nbytes for tensor in tensors))

    def drop_adapter(self, number: int) -> None:
        """Free an adapter that no sequence uses any more."""
        self._adapters.drop(number)

    @torch.inference_mode()
    def step(self, batch: StepBatch, arena: KVArena) -> Tensor:
        """Read the tokens into the arena; return float32 `[number of wants_logits, vocabulary]`."""
        plan = _Plan(batch, self, self._device, self._dtype)
        states, weights = self._read(plan, arena), self._weights
        if not plan.wanted:
            return torch.empty(0, self.shape.vocabulary, dtype=torch.float32, device=self._device)
        last = self._norm(states.index_select(0, plan.wanted_rows), weights.final_norm)
        return functional.linear(last, weights.head)[: plan.wanted].float()

    @torch.inference_mode()
    def sum_states(self, batch: StepBatch, arena: KVArena) -> Tensor:
        """Read the tokens into the arena; return float32 `[sequences, width]`: their states after the last norm."""
        states = self._read(_Plan(batch, self, self._device, self._dtype), arena)
        last = self._norm(states, self._weights.final_norm).float()
        return torch.stack([last[begin:end].sum(0) for begin, end in pairwise(batch.first.tolist())])

    def adapter_plan(self, adapter_of_row: list[int]) -> AdapterPlan | None:
        """Return how the rows of a step use their adapters."""
        return self._adapters.plan(adapter_of_row, self._device)

    def _read(self, plan: "_Plan", arena: KVArena) -> Tensor:
        """Return the states `[rows, width]` before the last norm."""
        weights, shape = self._weights, self.shape
        states = functional.embedding(plan.token_ids, weights.embedding)
        if weights.positions is not None:
            states = states + functional.embedding(plan.positions, weights.positions)
        rotation = self._rotation(plan.positions)
        for number, layer in enumerate(weights.layers):
            qkv = self._product(self._norm(states, layer.attention_norm), number, "qkv", plan.adapters)
            heads = qkv.view(len(states), -1, shape.head_dim)
            values = heads[:, shape.heads + shape.kv_heads :]
            rotated = _rotate(heads[:, : shape.heads + shape.kv_heads], rotation)
            keys_of_layer, values_of_layer = arena.keys[number], arena.values[number]
            keys_of_layer.index_copy_(1, plan.places, rotated[:, shape.heads :].transpose(0, 1))
            values_of_layer.index_copy_(1, plan.places, values.transpose(0, 1))
            mixed = plan.attention.attend(rotated[:, : shape.heads], keys_of_layer, values_of_layer)
            states = states + self._product(mixed, number, "output", plan.adapters)
            inner = self._product(self._norm(states, layer.mlp_norm), number, "up", plan.adapters)
            states = states + self._product(self._activated(inner), number, "down", plan.adapters)
        return states

    def _product(self, inputs: Tensor, layer: int, name: ProductName, adapters: AdapterPlan | None) -> Tensor:
        affine = self._weights.layers[layer].products[name]
        outputs = functional.linear(inputs, affine.weight, affine.bias)
        if adapters is not None:
            adapters.add(outputs, inputs, layer, name)
        return outputs

    def _norm(self, states: Tensor, norm: Affine) -> Tensor:
        if self.shape.family == "gpt2":
            return functional.layer_norm(states, norm.weight.shape, norm.weight, norm.bias, self.shape.epsilon)
        return functional.rms_norm(states, norm.weight.shape, norm.weight, self.shape.epsilon)

    def _activated(self, inner: Tensor) -> Tensor:
        if self.shape.family == "gpt2":
            return functional.gelu(inner, approximate="tanh")
        gate, up = inner.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return cosine and signed sine, `[rows, 1, head_dim]`, of Llama's rotary positions."""
        if self._weights.inverse_frequencies is None:
            return None
        angles = positions[:, None, None].float() * self._weights.inverse_frequencies
        cosine, sine = angles.cos() * self._weights.rotary_scale, angles.sin() * self._weights.rotary_scale
        return torch.cat((cosine, cosine), -1).to(self._dtype), torch.cat((-sine, sine), -1).to(self._dtype)


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
    if rotation is None:
        return heads
    cosine, sine = rotation
    half = heads.shape[-1] // 2
    swapped = torch.cat((heads[..., half:], heads[..., :half]), -1)
    return torch.addcmul(heads * cosine, swapped, sine)


class _Plan:
    """A step's index tensors on the device, made once for all layers."""

    def __init__(self, batch: StepBatch, network: Decoder, device: torch.device, dtype: torch.dtype) -> None:
        first = batch.first.tolist()
        starts, cached, adapters = batch.cache_start.tolist(), batch.cached.tolist(), batch.adapter.tolist()
        wanted = batch.wants_logits.nonzero().flatten().tolist()
        counts = [end - begin for begin, end in pairwise(first)]
        pieces = [
            (begin, count, start, known + count)
            for begin, count, start, known in zip(first, counts, starts, cached, strict=False)
        ]
        shift = batch.cache_start + batch.cached - batch.first[:-1]
        places = torch.arange(first[-1]) + shift.repeat_interleave(torch.tensor(counts))
        rows = torch.arange(first[-1])
        adapter_of_row = [adapter for adapter, count in zip(adapters, counts, strict=True) for _ in range(count)]
        if first[-1] < LEAST_ROWS:
            # The one row is computed twice and stored twice in the same place.
            rows, pieces, adapter_of_row = rows.expand(LEAST_ROWS), _twice(pieces[0]), adapter_of_row * LEAST_ROWS
        self.token_ids = batch.token_ids[rows].to(device)
        self.positions = batch.positions[rows].to(device)
        self.places = places[rows].to(device)
        self.wanted = len(wanted)
        self.wanted_rows = torch.tensor(wanted + wanted[-1:] * (self.wanted < LEAST_ROWS), dtype=torch.int64).to(device)
        self.attention = AttentionPlan(pieces, network.shape.heads // network.shape.kv_heads, dtype, device)
        self.adapters = network.adapter_plan(adapter_of_row)


def _twice(piece: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    row, count, start, length = piece
    return [piece, (row + 1, count, start, length)]
