"""Estimates the memory of a training step from the model's sizes, the rows and the rank, without making a tensor.

It counts what each layer keeps for the backward pass and the largest set of temporaries that exists at once. It was
fitted to measured peaks of processes (`python -m bench.training_memory`), of which it is 1.0 to 1.25 times.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.training.kept import Kept, kept_by
from tasks.training.packed.limits import CHUNK, LONGEST_DIRECT

BackendName = Literal["packed", "padded"]

RUNTIME_BYTES = 128 * 2**20
"""Code, tables and buffers of the libraries that a first step brings into memory."""
SLACK = 1.45
"""Allocator overhead (fragmentation), as a factor."""
PADDED_SLACK = 1.4
"""The same where what is kept is known more closely."""
FOUR_BIT_BYTES = 0.52
"""Of a weight in four bits, with its share of the scales (Dettmers et al. 2023: 4.127 bits)."""
DORA_OUTPUTS = 3
"""What DoRA keeps of each adapted product beside what LoRA does, in its outputs: both parts and their scaled sum."""

_PACKED_FAMILY = ("llama", "mistral", "qwen2")
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads"),
    "vocabulary": ("vocab_size",),
    "inner": ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "experts": ("num_experts_per_tok", "experts_per_token"),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
_OUTPUT_DROPOUT = ("resid_pdrop", "hidden_dropout", "dropout", "residual_dropout", "hidden_dropout_prob")


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
    drops_outputs: bool = False
    """Whether what attention and MLP add is dropped at random in training: then the draws are kept."""
    kept: Kept = field(default_factory=Kept)
    """What a layer keeps by the code of its family."""
    experts: int = 0
    """Experts that compute one token; 0 for an MLP that is none."""
    caps_logits: bool = False
    """Whether logits are scaled or squashed after the head."""
    adapted: tuple[tuple[int, int], ...] | None = None
    """Inputs and outputs of every linear layer that has an adapter, in all layers, where they are known."""

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
        """Return how many numbers the adapters have; with names that are not Llama's, as if all layers had one.

        Where the layers that have one are known, `targets` says nothing new.
        """
        if self.adapted is not None:
            return rank * sum(inputs + outputs for inputs, outputs in self.adapted)
        names = [target.rpartition(".")[2] for target in targets or ()]
        known = {name: sizes for name, sizes in self.linear_layers.items() if name in names}
        chosen = known if names and len(known) == len(set(names)) else self._adaptable
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in chosen.values())

    @property
    def adapted_inputs(self) -> int:
        """Inputs of the products of one layer that have an adapter."""
        if self.adapted is not None:
            return sum(inputs for inputs, _ in self.adapted) // self.layers
        return sum(inputs for inputs, _ in self._adaptable.values())

    @property
    def adapters(self) -> int:
        """Adapters of one layer."""
        return len(self._adaptable) if self.adapted is None else -(-len(self.adapted) // self.layers)

    @property
    def adapted_outputs(self) -> int:
        """Outputs of the products of one layer that have an adapter."""
        if self.adapted is not None:
            return sum(outputs for _, outputs in self.adapted) // self.layers
        return sum(outputs for _, outputs in self._adaptable.values())

    @property
    def _adaptable(self) -> dict[str, tuple[int, int]]:
        """The products that get an adapter: experts get none."""
        names = [name for name in self.linear_layers if not self.experts or name in _ATTENTION]
        return {name: self.linear_layers[name] for name in names}

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
    family = str(text.get("model_type") or config.get("model_type"))
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
        gated=kept_by(family).gated,
        drops_attention=any(text.get(name) for name in _ATTENTION_DROPOUT),
        drops_outputs=any(text.get(name) for name in _OUTPUT_DROPOUT),
        kept=kept_by(family),
        experts=found["experts"] or 0,
        caps_logits=any(text.get(name) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")),
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
    mlp, logits = tokens * _at_once_per_token(sizes, shape), _logits(sizes, shape, len(lengths), tokens)
    # A padded step's logits are gone before its last layer's MLP is on the way back, and that before its attention.
    at_once = mlp + logits if shape.backend == "packed" else max(mlp, logits, _attention_at_once(sizes, shape, lengths))
    slack = SLACK if shape.backend == "packed" else PADDED_SLACK
    return max(_folding(shape), int(_fixed(sizes, shape) + slack * (activations + at_once)))


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
    family, inputs = sizes.kept, sizes.adapted_inputs
    # Queries, keys and values for each of the heads, and what attention makes of them; a CPU's dropout keeps numbers.
    attention = 4 * queries
    experts = max(1, sizes.experts)
    mlp = experts * family.inner * inner + (experts * width if sizes.experts else 0)
    adapters = inputs * (1 + mask) + sizes.adapters * shape.rank
    dora = DORA_OUTPUTS * sizes.adapted_outputs if shape.dora else 0
    in_float32 = family.hidden_bytes * width + (4 * (queries + keys) if family.norms_queries else 0)
    dropped = 2 * width if sizes.drops_outputs else 0
    return int((attention + family.hidden * width + dropped + mlp + adapters + dora) * element) + in_float32


def _attention_weights(sizes: ModelSizes, shape: StepShape, lengths: Sequence[int]) -> int:
    """Return the bytes of the attention weights that one layer keeps, where they are made at all."""
    if shape.backend == "packed":
        direct = shape.on_cpu and max(lengths) <= LONGEST_DIRECT
        return sizes.heads * sum(length**2 for length in lengths) * shape.element_bytes if direct else 0
    squares = len(lengths) * max(lengths) ** 2
    masks = squares * shape.element_bytes
    if sizes.drops_attention:
        # In float32, whatever the format: the weights, what is dropped of them, and what is left.
        return masks + sizes.heads * squares * 13
    return masks + int(sizes.heads * squares * (sizes.kept.squares * shape.element_bytes + sizes.kept.square_bytes))


def _attention_at_once(sizes: ModelSizes, shape: StepShape, lengths: Sequence[int]) -> int:
    """Return the bytes of the attention weights and their gradients that exist at once, where they are made at all."""
    if shape.backend == "packed" or not (sizes.kept.eager or sizes.drops_attention):
        return 0
    return sizes.heads * len(lengths) * max(lengths) ** 2 * (shape.element_bytes + 4)


def _at_once_per_token(sizes: ModelSizes, shape: StepShape) -> int:
    """Return the bytes of a token at the widest place of a layer's backward pass: its MLP's products and masks."""
    return (8 * sizes.inner + 4 * sizes.hidden) * shape.element_bytes


def _logits(sizes: ModelSizes, shape: StepShape, rows: int, tokens: int) -> int:
    """Return the bytes of the logits with their gradients, which exist at once."""
    if shape.backend == "packed":
        at_once = CHUNK * (min(rows, os.cpu_count() or 1) if shape.on_cpu else 1)  # each thread has rows of its own
        return at_once * sizes.vocabulary * (shape.element_bytes + 4) + 2 * tokens * sizes.hidden * 4
    # In float32 log-probabilities, their gradient and the logits'.
    return tokens * sizes.vocabulary * 3 * 4
