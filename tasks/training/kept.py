"""What a layer of each family keeps of a token for its backward pass, by transformers' code: measured, and exact.

The numbers are counts of values that autograd saves in a step of LoRA on a CPU (tests/tasks/training/test_kept.py),
without what the adapters themselves save. Products are in the step's format, of `element` bytes each; norms, and what
else is computed in float32 whatever the format, count in bytes.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Kept:
    """Of one layer, beside queries, keys, values and attention's output; the default is that of a Llama."""

    hidden: float = 0
    """Values for each of the hidden size: the inputs of norms that compute in the step's format."""
    hidden_bytes: int = 8
    """Bytes for each of the hidden size: the inputs of norms that compute in float32."""
    inner: float = 3
    """Values for each of the MLP's width: a gate, its activation and its factor; 1 for an activation alone."""
    norms_queries: bool = False
    """Whether queries and keys are normed, in float32."""
    eager: bool = False
    """Whether attention makes its weights, for each head and pair of tokens."""
    squares: float = 0
    """Values for each head and pair of tokens."""
    square_bytes: int = 0
    """Bytes for each head and pair of tokens: of eager attention what is computed in float32, or a float32 mask."""

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate beside its way up."""
        return self.inner % 3 == 0


_LLAMA = Kept()
_QUERIES_NORMED = Kept(norms_queries=True)
_LAYER_NORMS = Kept(hidden=2, hidden_bytes=0, inner=1)
_ALIBI = Kept(hidden=1, hidden_bytes=0, inner=1, eager=True, squares=-1, square_bytes=8)
"""The sum of scores and positions, and its softmax in float32; in float32 the two are one."""
_GELU_IN_PARTS = 4
"""Values of GPT-2's approximation of GELU, which transformers computes by several operators."""
_FOUR_NORMS = 16
FAMILIES: dict[str, Kept] = {
    "apertus": _QUERIES_NORMED,
    "arcee": Kept(inner=1),
    "biogpt": _LAYER_NORMS,
    "bloom": _ALIBI,
    "codegen": Kept(hidden_bytes=0, inner=_GELU_IN_PARTS, eager=True, squares=1),
    "exaone4": _QUERIES_NORMED,
    "falcon": Kept(hidden_bytes=6, inner=1, square_bytes=4),
    "gemma2": Kept(hidden_bytes=_FOUR_NORMS, eager=True, square_bytes=8),
    "gemma3": Kept(hidden_bytes=_FOUR_NORMS, norms_queries=True),
    "gemma3_text": Kept(hidden_bytes=_FOUR_NORMS, norms_queries=True),
    "glm4": Kept(hidden_bytes=_FOUR_NORMS),
    "gpt2": replace(_LAYER_NORMS, inner=_GELU_IN_PARTS),
    "gpt_bigcode": _LAYER_NORMS,
    "gpt_neo": Kept(hidden=1, hidden_bytes=0, inner=_GELU_IN_PARTS, eager=True, squares=1),
    "gpt_neox": replace(_LAYER_NORMS, hidden=3),
    "gpt_oss": Kept(inner=6, eager=True, squares=1),
    "gptj": Kept(hidden_bytes=0, inner=_GELU_IN_PARTS, eager=True, squares=1),
    "hunyuan_v1_dense": _QUERIES_NORMED,
    "mpt": _ALIBI,
    "nemotron": _LAYER_NORMS,
    "olmo2": _QUERIES_NORMED,
    "olmo3": _QUERIES_NORMED,
    "olmoe": _QUERIES_NORMED,
    "opt": _LAYER_NORMS,
    "persimmon": replace(_LAYER_NORMS, hidden=4),
    "phi": Kept(hidden=1, hidden_bytes=0, inner=_GELU_IN_PARTS),
    "phi3": Kept(hidden=1.5),
    "qwen3": _QUERIES_NORMED,
    "qwen3_moe": _QUERIES_NORMED,
    "stablelm": Kept(hidden=2, hidden_bytes=0),
    "starcoder2": _LAYER_NORMS,
    "xglm": Kept(hidden=1, hidden_bytes=0, inner=1, eager=True, squares=2),
}


def kept_by(family: str) -> Kept:
    """Return what a layer of `family`, a model type, keeps; what a Llama's does if there is nothing else to say."""
    return FAMILIES.get(family, _LLAMA)
