"""Tensors in a safetensors file, written from where they lie and read into one buffer, and hashed as they go by.

The library's own `save` and `load` take the file's bytes beside the tensors, and know no hash: that would be a copy of
a large state, and another pass over it. The files are the library's to read, and its are read here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CHUNK = 4 * 2**20
"""Bytes that are hashed and written at a time: few enough to stay in the processor's cache."""
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_TYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The format's names, the widest first: in this order every tensor begins at a multiple of its elements' size."""
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write CPU tensors to `path` and return the file's SHA-256. They must not change meanwhile."""
    order = list(_NAMES)
    ordered = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in _pieces(ordered, tensors):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a file, which share its memory. Raises OSError, or ValueError if its hash is another."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        content = torch.empty(path.stat().st_size, dtype=torch.uint8)
        view = content.numpy().data
        while count := file.readinto(view[:_CHUNK]):
            digest.update(view[:count])
            view = view[count:]
    if len(view) or digest.hexdigest() != sha256:
        raise ValueError(f"{path.name} is not what was written")
    start = _LENGTH_BYTES + int.from_bytes(bytes(content[:_LENGTH_BYTES].numpy()), "little")
    header: dict[str, Any] = json.loads(bytes(content[_LENGTH_BYTES:start].numpy()))
    header.pop("__metadata__", None)
    return {name: _tensor(content[start:], entry) for name, entry in header.items()}


def _tensor(data: Tensor, entry: Mapping[str, Any]) -> Tensor:
    begin, end = entry["data_offsets"]
    return data[begin:end].view(_TYPES[entry["dtype"]]).view(entry["shape"])


def _pieces(names: list[str], tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield a file's bytes: the length of its header, the header, and the tensors one after the other."""
    header, end = {}, 0
    for name in names:
        tensor, begin = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(_LENGTH_BYTES, "little") + text
    for name in names:
        content = tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data
        for begin in range(0, len(content), _CHUNK):
            yield content[begin : begin + _CHUNK]
