"""Estimates the memory of a training step from the model's sizes, the rows and the rank, without making a tensor.

It counts what each layer keeps for the backward pass and the largest set of temporaries that exists at once. It was
fitted to measured peaks of processes (`python -m bench.training_memory`), of which it is 1.1 to 1.5 times.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.training.packed.limits import CHUNK, LONGEST_DIRECT

BackendName = Literal["packed", "padded"]

RUNTIME_BYTES = 256 * 2**20
"""Code, tables and buffers of the libraries that a first step brings into memory."""
SLACK = 1.45
"""Allocator overhead (fragmentation), as a factor."""
FOUR_BIT_BYTES = 0.52
"""Of a weight in four bits, with its share of the scales (Dettmers et al. 2023: 4.127 bits)."""
DORA_OUTPUTS = 3
"""What DoRA keeps of each adapted product beside what LoRA does, in its outputs: both parts and their scaled sum."""

_PACKED_FAMILY = ("llama", "mistral", "qwen2")
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size",),
    "inner": ("intermediate_size", "n_inner", "ffn_dim"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "context": ("max_position_embeddings", "n_positions", "n_ctx"),
}
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop")


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a model that decide its memory."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int | None
    gated: bool
    """Whether the MLP has a gate beside its way up, as in Llama."""
    drops_attention: bool
    """Whether attention weights are dropped at random in training: then they are kept, heads · length² of them."""

    @property
    def queries(self) -> int:
        """Width of all heads' queries together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of the keys; that of the values is the same."""
        return self.kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Number of the weights in one layer's products."""
        return sum(inputs * outputs for inputs, outputs in self.linear_layers.values())

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of one layer's products, by the names that they have in Llama."""
        products = {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }
        return products | ({"gate_proj": (self.hidden, self.inner)} if self.gated else {})

    def adapter_parameters(self, rank: int, targets: Sequence[str] | None) -> int:
        """Return how many numbers the adapters have; with names that are not Llama's, as if all layers had one."""
        names = [target.rpartition(".")[2] for target in targets or ()]
        known = {name: sizes for name, sizes in self.linear_layers.items() if name in names}
        chosen = known if names and len(known) == len(set(names)) else self.linear_layers
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in chosen.values())

    def four_bit_bytes(self, parameters: int, element_bytes: int) -> int:
        """Return the bytes of so many weights if those of the linear layers are in four bits, as QLoRA has them."""
        linear = self.layers * self.layer_parameters
        return int(linear * FOUR_BIT_BYTES) + (parameters - linear) * element_bytes


@dataclass(frozen=True)
class StepShape:
    """Everything but the rows that a step's memory depends on."""

    backend: BackendName
    element_bytes: int
    """Of a number in the products: 2 in bfloat16, 4 in float32."""
    frozen_bytes: int
    """Of the weights that do not train."""
    trained_parameters: int
    rank: int
    """Of the adapters; 0 where all weights train."""
    dropout: bool
    on_cpu: bool
    dora: bool = False
    """Whether the adapters are DoRA's: more is kept of every product, and the base is folded in float32 at load."""
    devices: int = 1
    """Data-parallel devices; with several, gradients are copied for the all-reduce."""
    sharded: bool = False
    """Whether the base's weights are sharded among the devices (FSDP); an adapter's are not."""

    @property
    def trains_all(self) -> bool:
        """Whether all weights train, none as an adapter."""
        return self.rank == 0


def sizes_of(config: Mapping[str, Any]) -> ModelSizes | None:
    """Return the sizes that a model's `config.json` says; None if it has no such layers, or under other names."""
    text: Mapping[str, Any] = config.get("text_config") or config
    found = {
        size: next((text[name] for name in names if isinstance(text.get(name), int)), None)
        for size, names in _NAMES.items()
    }
    layers, hidden, heads, vocabulary = (found[size] for size in ("layers", "hidden", "heads", "vocabulary"))
    if not (layers and hidden and heads and vocabulary):
        return None
    return ModelSizes(
        layers=layers,
        hidden=hidden,
        inner=found["inner"] or 4 * hidden,
        heads=heads,
        kv_heads=found["kv_heads"] or heads,
        head_dim=found["head_dim"] or hidden // heads,
        vocabulary=vocabulary,
        context=found["context"],
        gated="silu" in str(text.get("hidden_act")),
        drops_attention=any(text.get(name) for name in _ATTENTION_DROPOUT),
    )


def likely_backend(config: Mapping[str, Any]) -> BackendName:
    """Return the backend that a run on this base will use; `packed.llama.is_supported` decides by the loaded model."""
    plain = config.get("hidden_act") == "silu" and not config.get("attention_dropout")
    known = config.get("model_type") in _PACKED_FAMILY and config.get("sliding_window") is None
    return "packed" if plain and known else "padded"


def step_bytes(sizes: ModelSizes, shape: StepShape, lengths: Sequence[int], *, recompute: bool) -> int:
    """Return the most memory, in bytes, that training takes at once while a micro-batch of rows so long is computed.

    Every token counts as one to learn. With `recompute` layers keep only their input, and one at a time is recomputed.
    """
    tokens = sum(lengths) if shape.backend == "packed" else len(lengths) * max(lengths)
    kept = tokens * _kept_per_token(sizes, shape) + _attention_weights(sizes, shape, lengths)
    between = tokens * sizes.hidden * shape.element_bytes
    activations = sizes.layers * between + kept if recompute else sizes.layers * kept
    at_once = tokens * _at_once_per_token(sizes, shape) + _logits(sizes, shape, len(lengths), tokens)
    return max(_folding(shape), int(_fixed(sizes, shape) + SLACK * (activations + at_once)))


def loading_bytes(shape: StepShape) -> int:
    """Return the most memory, in bytes, that dividing the weights takes on all devices of a CPU, on one GPU.

    On a CPU the processes load one after the other: beside one's whole model there are the others' parts. To a GPU a
    model comes layer by layer.
    """
    weights = 4 * shape.trained_parameters if shape.trains_all else shape.frozen_bytes
    return shape.devices * RUNTIME_BYTES + 2 * weights if shape.on_cpu else 0


def copy_bytes(shape: StepShape) -> int:
    """Return the bytes of the copy that a checkpoint is written from beside the steps: weights and AdamW's moments.

    It is in main memory, which no plan is about on a GPU. Full-parameter states that are divided among devices are
    gathered on one for any checkpoint, and counted with the step.
    """
    gathered = shape.sharded and shape.trains_all
    return (4 + 8) * shape.trained_parameters if shape.on_cpu and not gathered else 0


def _fixed(sizes: ModelSizes, shape: StepShape) -> int:
    """Weights; those that train with their gradients and AdamW's moments, all float32."""
    copied_gradient = 4 if shape.devices > 1 else 0
    per_trained_parameter = 4 + 4 + 8 + shape.element_bytes + copied_gradient
    if not shape.sharded:
        return RUNTIME_BYTES + shape.frozen_bytes + shape.trained_parameters * per_trained_parameter
    adapter = 0 if shape.trains_all else shape.trained_parameters * per_trained_parameter
    return RUNTIME_BYTES + _divided(sizes, shape) + adapter


def _divided(sizes: ModelSizes, shape: StepShape) -> int:
    """Return the bytes of one device's part of the weights, and of what is gathered at once.

    That is what lies outside the layers, the layer that is computed and the next one, which is fetched meanwhile; each
    is received in one piece and copied to its places, and so are gradients. A CPU's allocator keeps as much of what is
    freed. A checkpoint is gathered on one device.
    """
    copies = 4 if shape.on_cpu else 2
    if shape.trains_all:
        parameters, gathered = shape.trained_parameters, copies * (4 + 4) + shape.element_bytes
        held = 4 + 4 + 8 + (24 if shape.on_cpu else 0)
    else:
        parameters, gathered = shape.frozen_bytes // shape.element_bytes, copies * shape.element_bytes
        held = shape.element_bytes
    outside = max(0, parameters - sizes.layers * sizes.layer_parameters)
    return parameters * held // shape.devices + gathered * (outside + 2 * sizes.layer_parameters)


def _folding(shape: StepShape) -> int:
    """Return the bytes of a base in float32 beside the one in its own format: what DoRA begins and ends with."""
    in_float32 = 4 * shape.frozen_bytes // shape.element_bytes
    return RUNTIME_BYTES + shape.frozen_bytes + in_float32 if shape.dora else 0


def _kept_per_token(sizes: ModelSizes, shape: StepShape) -> int:
    """Return the bytes that one layer keeps of a token for its backward pass, but for attention weights."""
    width, queries, keys, inner = sizes.hidden, sizes.queries, sizes.keys, sizes.inner
    element, mask = shape.element_bytes, int(shape.dropout)
    if shape.backend == "packed":
        ranks = 7 * shape.rank
        kept = 2 * width + (queries + 2 * keys) + queries + 2 * inner + ranks
        return kept * element + (2 * width + queries + inner) * mask
    inputs = sum(inputs for inputs, _ in sizes.linear_layers.values())
    ranks = len(sizes.linear_layers) * shape.rank
    mlp = (3 if sizes.gated else 6) * inner  # the activation's input, output and what it is multiplied with
    norms = 2 * width * 4
    dora = DORA_OUTPUTS * sum(outputs for _, outputs in sizes.linear_layers.values()) if shape.dora else 0
    return (4 * queries + mlp + inputs + ranks + dora) * element + inputs * mask + norms


def _attention_weights(sizes: ModelSizes, shape: StepShape, lengths: Sequence[int]) -> int:
    """Return the bytes of the attention weights that one layer keeps, where they are made at all."""
    if shape.backend == "packed":
        direct = shape.on_cpu and max(lengths) <= LONGEST_DIRECT
        return sizes.heads * sum(length**2 for length in lengths) * shape.element_bytes if direct else 0
    squares = len(lengths) * max(lengths) ** 2
    per_weight = 3 * shape.element_bytes + 1
    return sizes.heads * squares * per_weight if sizes.drops_attention else 0


def _at_once_per_token(sizes: ModelSizes, shape: StepShape) -> int:
    """Return the bytes of a token at the widest place of a layer's backward pass: its MLP's products and masks."""
    return (8 * sizes.inner + 4 * sizes.hidden) * shape.element_bytes


def _logits(sizes: ModelSizes, shape: StepShape, rows: int, tokens: int) -> int:
    """Return the bytes of the logits with their gradients, which exist at once."""
    if shape.backend == "packed":
        at_once = CHUNK * (min(rows, os.cpu_count() or 1) if shape.on_cpu else 1)  # each thread has rows of its own
        return at_once * sizes.vocabulary * (shape.element_bytes + 4) + 2 * tokens * sizes.hidden * 4
    return tokens * sizes.vocabulary * (2 * shape.element_bytes + 3 * 4)
