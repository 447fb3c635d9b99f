"""A GGUF file by its header alone: what it holds, and whether its model can be written as safetensors.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Imports no tensors: the API asks before it names
a model available. What the conversion would leave out (a scaled rope, a window, a vision tower) is refused by name
here, for the model would answer without it, and nobody would know.
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""llama.cpp's names of what is converted: tests compare each with the model that its file was made of."""
SPLITTERS = frozenset(
    ("gpt-2", "smollm", "llama-bpe", "llama3", "llama-v3", "qwen2", "deepseek-r1-qwen", "tekken", "falcon3")
)
"""llama.cpp's names of how a byte-level vocabulary cuts a text into words, of those that are restored."""
_SETTINGS = frozenset(
    (
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.type",
        "vocab_size",
    )
)
_PARTS = (
    "token_embd.",
    "output_norm.",
    "output.",
    ".attn_norm.",
    ".attn_q.",
    ".attn_k.",
    ".attn_v.",
    ".attn_output.",
    ".attn_q_norm.",
    ".attn_k_norm.",
    ".ffn_norm.",
    ".ffn_gate.",
    ".ffn_up.",
    ".ffn_down.",
)
_FLOAT32, _FLOAT16 = 0, 1
_WAY_OUT = "take the model's own checkpoint as safetensors"


class GgufUnreadable(Exception):
    """The file is no GGUF file, is cut short, or is of another version; the message says which."""


@dataclass(frozen=True)
class GgufHeader:
    """What a file says before its tensors."""

    metadata: dict[str, Any]
    """By key; of an array of texts its length alone."""
    shapes: dict[str, tuple[int, ...]]
    """Each tensor's dimensions, the fastest-moving first."""
    kinds: frozenset[int]
    """ggml's numbers of the types that the tensors are stored in."""

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return str(self.metadata.get("general.architecture"))

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(map(prod, self.shapes.values()))

    @property
    def bytes_unpacked(self) -> int:
        """How many bytes the weights take as safetensors."""
        return self.parameters * (4 if self.dtype == "float32" else 2)

    @property
    def dtype(self) -> str:
        """The type that holds the weights best: the file's own if it is not quantized."""
        if self.kinds <= {_FLOAT32}:
            return "float32"
        return "float16" if self.kinds <= {_FLOAT32, _FLOAT16} else "bfloat16"


def gguf_files(folder: Path) -> list[Path]:
    """Return the GGUF files of a folder, in the order of their names."""
    return sorted(folder.glob("*.gguf"))


def gguf_defect(folder: Path) -> str | None:
    """Return why the GGUF model in `folder` can't be converted, in a clause; None if it can."""
    first, *others = gguf_files(folder)
    if others:
        named = " and ".join(file.name for file in (first, others[0]))
        return f"{folder} holds {len(others) + 1} GGUF files ({named}): leave the one that is meant, in one piece"
    try:
        header = read_header(first)
    except (GgufUnreadable, OSError) as error:
        return f"{first} can't be read ({error}): download it again"
    return _defect_of_header(first, header)


def _defect_of_header(file: Path, header: GgufHeader) -> str | None:
    metadata, architecture = header.metadata, header.architecture
    if architecture not in ARCHITECTURES:
        return (
            f"{file} has the architecture {architecture}, and GGUF is read for {', '.join(ARCHITECTURES)}: {_WAY_OUT}"
        )
    own = f"{architecture}."
    strange = [
        key
        for key, value in metadata.items()
        if key.startswith(own) and key.removeprefix(own) not in _SETTINGS and value not in (0, False)
    ]
    if metadata.get(f"{own}rope.scaling.type", "none") != "none":
        strange.insert(0, f"{own}rope.scaling.type")
    strange += [name for name in header.shapes if not any(part in name for part in _PARTS)]
    if strange:
        return f"{file} has {strange[0]}, which would be left out: {_WAY_OUT}"
    kind, splitter = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind not in ("gpt2", "llama"):
        return f"{file} has a tokenizer of the kind {kind}, and gpt2 and llama are read: {_WAY_OUT}"
    if kind == "gpt2" and splitter not in SPLITTERS:
        return f"{file} has a tokenizer that cuts words as {splitter}, of which nothing is known here: {_WAY_OUT}"
    if kind == "llama" and metadata.get("tokenizer.ggml.add_space_prefix") is False:
        return f"{file} has a tokenizer that puts no space before a text (add_space_prefix): {_WAY_OUT}"
    return None


def read_header(file: Path) -> GgufHeader:
    """Return what the file says before its tensors; raises `GgufUnreadable` and OSError."""
    with file.open("rb") as opened:
        if opened.read(4) != MAGIC:
            raise GgufUnreadable("it does not begin with GGUF")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Reader(content).header()
            except (struct.error, UnicodeDecodeError, KeyError, OverflowError, MemoryError) as error:
                raise GgufUnreadable("its header is cut short or damaged") from error


class _Reader:
    """Reads one value after another."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._place = len(MAGIC)

    def header(self) -> GgufHeader:
        version, tensors, entries = self._numbers("IQQ")
        if version not in VERSIONS:
            raise GgufUnreadable(f"it is of version {version}, and {' and '.join(map(str, VERSIONS))} are read")
        metadata = {}
        for _ in range(entries):
            key = self._text()
            metadata[key] = self._value(*self._numbers("I"))
        shapes, kinds, ends = {}, set(), [0]
        for _ in range(tensors):
            name = self._text()
            (dimensions,) = self._numbers("I")
            if dimensions > _MOST_DIMENSIONS:
                raise GgufUnreadable("its header is damaged")
            shapes[name] = self._numbers(f"{dimensions}Q")
            kind, offset = self._numbers("IQ")
            kinds.add(kind)
            ends.append(offset)
        if self._place + max(ends) >= len(self._content):
            raise GgufUnreadable("it is cut short")
        return GgufHeader(metadata, shapes, frozenset(kinds))

    def _numbers(self, format: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{format}", self._content, self._place)
        self._place += struct.calcsize(f"<{format}")
        return found

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        text = self._content[self._place : self._place + length]
        if len(text) < length:
            raise GgufUnreadable("it is cut short")
        self._place += length
        return text.decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._numbers(_SCALARS[kind])[0]
        inner, count = self._numbers("IQ")
        if inner == _STRING:
            for _ in range(count):
                (length,) = self._numbers("Q")
                self._place += length
            return count
        return list(self._numbers(f"{count}{_SCALARS[inner]}"))
