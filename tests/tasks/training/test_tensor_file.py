"""Our tensor files are the library's, in both directions, and a hash is that of the bytes on the disk."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.training.tensor_file import read_tensors, write_tensors

TENSORS = {
    "matrix": torch.randn(3, 5),
    "scalar": torch.tensor(3.0),
    "nothing": torch.empty(0, 4),
    "half": torch.randn(7).bfloat16(),
    "odd": torch.arange(5, dtype=torch.uint8),
    "wide": torch.randn(2, 2, dtype=torch.float64),
    "flags": torch.tensor([True, False, True]),
    "transposed": torch.randn(4, 6).T,
    "of more than one chunk": torch.randn(1100, 1100),
}


def assert_same(found):
    assert found.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)


def test_what_is_written_reads_back_here_and_by_the_library(tmp_path):
    digest = write_tensors(tmp_path / "file", TENSORS)
    assert digest == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    assert_same(load_file(tmp_path / "file"))
    assert_same(read_tensors(tmp_path / "file", digest))


def test_the_librarys_files_are_read(tmp_path):
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(contiguous, tmp_path / "file", metadata={"format": "pt"})
    assert_same(read_tensors(tmp_path / "file", hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()))


@pytest.mark.parametrize("damage", [lambda bytes_: bytes_[:-1], lambda bytes_: bytes_ + b"!", lambda _: b""])
def test_other_bytes_are_an_error(tmp_path, damage):
    digest = write_tensors(tmp_path / "file", TENSORS)
    (tmp_path / "file").write_bytes(damage((tmp_path / "file").read_bytes()))
    with pytest.raises(ValueError, match="file is not what was written"):
        read_tensors(tmp_path / "file", digest)
