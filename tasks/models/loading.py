"""Models, adapters and tokenizers from local folders: safetensors only, no remote code, no network, no half loads."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from registry.adapter_folder import adapter_defect
from registry.model_folder import weight_files, weights_defect
from tasks.models.errors import WeightsError
from tasks.models.process_state import loading

UNLIMITED_CONTEXT = 1_048_576
"""Context of a model that states none, such as a recurrent one."""
LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError)
"""What transformers, peft and safetensors raise for a damaged or foreign folder."""


def load_config(folder: Path) -> PretrainedConfig:
    """Return the model's configuration. Raises `WeightsError` if `folder` has none that transformers knows."""
    if not (folder / "config.json").is_file():
        raise WeightsError(f"no model in {folder}: config.json is missing")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise WeightsError(f"config.json in {folder} can't be used: {first_line(error)}") from error


def context_length(config: PretrainedConfig) -> int:
    """Return how many tokens, prompt and continuation together, the model can attend to."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        length = getattr(text, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return UNLIMITED_CONTEXT


def length_switch(config: PretrainedConfig) -> int | None:
    """Return the number of tokens beyond which the model rotates all its positions otherwise (longrope), or None.

    It looks at the longest text of a batch: one beyond and one within must not be read together.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    return int(rope["original_max_position_embeddings"])


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the folder's tokenizer with its chat template. Raises `WeightsError` if there is none that loads."""
    if not folder.is_dir():
        raise WeightsError(f"no tokenizer: {folder} is not a folder")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise WeightsError(f"the tokenizer in {folder} can't be loaded: {first_line(error)}") from error


def end_token_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that end a text: `eos_token_id` of `generation_config.json`, `config.json` and the tokenizer.

    Those of the chat template are not among them: `tasks.models.endings.answer_end_ids` has all.
    Raises `WeightsError` for a file that is not a JSON object.
    """
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            named = [settings.get("eos_token_id"), (settings.get("text_config") or {}).get("eos_token_id")]
        except (ValueError, AttributeError) as error:
            raise WeightsError(f"{path} is not a JSON object: {first_line(error)}") from error
        for own in named:
            ids.update(token_id for token_id in (own if isinstance(own, list) else [own]) if isinstance(token_id, int))
    if isinstance(tokenizer.eos_token_id, int):
        ids.add(tokenizer.eos_token_id)
    return frozenset(ids)


def model_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a base model.

    Raises:
        WeightsError: the folder or a file is missing or damaged, only pickled weights are there (they can run code:
            refused), the weights are quantized, or an adapter lies beside them.
    """
    if (reason := weights_defect(folder)) is not None:
        raise WeightsError(reason)
    return weight_files(folder)


def adapter_files(folder: Path) -> list[Path]:
    """Return the safetensors file of an adapter. Raises `WeightsError` if the folder has none."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise WeightsError(f"no safetensors weights in {folder}: adapter_model.safetensors is missing")
    return [file]


def weight_bytes(files: list[Path], dtype: torch.dtype) -> int:
    """Return the memory that the tensors in `files` take once loaded in `dtype`; reads the headers only.

    Raises:
        WeightsError: a file is missing, cut short or not safetensors.
    """
    return sum(size.numel() for size in weight_shapes(files).values()) * dtype.itemsize


def weight_shapes(files: list[Path]) -> dict[str, torch.Size]:
    """Return the shape of every tensor in `files`; reads the headers only.

    Raises:
        WeightsError: a file is missing, cut short or not safetensors.
    """
    shapes: dict[str, torch.Size] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict, it can't be iterated
                    shapes[name] = torch.Size(tensors.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file} is missing or damaged: {first_line(error)}") from error
    return shapes


def load_base_model(
    folder: Path, dtype: torch.dtype, device: torch.device, *, quantization: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """Return the model in `folder` in `dtype` on `device`, in evaluation mode; its linear layers quantized if wished.

    Raises:
        WeightsError: the folder is missing, damaged or incomplete, needs remote code, or holds pickled weights only.
    """
    model_files(folder)
    load_config(folder)
    try:
        with loading():
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                # Quantized where they are loaded: what has been quantized can't be moved.
                **({} if quantization is None else {"quantization_config": quantization, "device_map": {"": device}}),
            )
    except LOAD_ERRORS as error:
        raise WeightsError(f"the model in {folder} can't be loaded: {first_line(error)}") from error
    absent = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if absent:  # transformers would go on with random numbers in their place
        raise WeightsError(f"the model in {folder} lacks {len(absent)} tensors, among them {absent[0]}")
    return (model if quantization is not None else model.to(device)).eval()


def adapter_config(folder: Path) -> LoraConfig:
    """Return the LoRA configuration in `folder`.

    Raises:
        WeightsError: it is missing, not LoRA, of a kind that changes the base's own weights when attached, or has an
            option that nothing here applies: such an adapter would answer, and not as it was trained to.
    """
    if not (folder / "adapter_config.json").is_file():
        raise WeightsError(f"no adapter in {folder}: adapter_config.json is missing")
    if (reason := adapter_defect(folder)) is not None:
        raise WeightsError(reason)
    try:
        config = _known_config(folder)
    except LOAD_ERRORS as error:
        raise WeightsError(f"adapter_config.json in {folder} can't be used: {first_line(error)}") from error
    config.inference_mode = True
    return config


def _known_config(folder: Path) -> LoraConfig:
    with warnings.catch_warnings():
        # Of options of other versions of peft, which have been looked at: these are off.
        warnings.filterwarnings("ignore", message="Unexpected keyword arguments")
        return LoraConfig.from_pretrained(str(folder))


def attach_adapter(model: PreTrainedModel | PeftModel, folder: Path, name: str = "default") -> PeftModel:
    """Attach the adapter in `folder` as `name` to a base, or to a base that carries adapters already.

    The base's modules are wrapped in place; which adapter is active afterwards is not defined: activate one. On
    failure the model is as it was.

    Raises:
        WeightsError: the adapter is missing, damaged, pickled, or made for another model.
    """
    config = adapter_config(folder)
    file = adapter_files(folder)[0]
    options: dict[str, Any] = {"autocast_adapter_dtype": False, "low_cpu_mem_usage": True}
    attached = model if isinstance(model, PeftModel) else None
    try:
        # The adapter takes its layers' dtype: peft's default of float32 doubles the operators of a bfloat16 step.
        if attached is None:
            attached = wrap(model, config, name, options)
        else:
            with loading():
                attached.add_adapter(name, config, **options)
        # Without a device peft picks the GPU whatever the model is on.
        with loading():
            attached.load_adapter(str(folder), name, torch_device=str(next(model.parameters()).device), **options)
        check_adapter_tensors(attached, name, file)
    except (*LOAD_ERRORS, WeightsError) as error:
        if isinstance(model, PeftModel):
            if name in model.peft_config:
                model.delete_adapter(name)
        elif attached is not None:
            attached.base_model.unload()
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"the adapter in {folder} can't be attached: {first_line(error)}") from error
    return attached.eval()


def wrap(model: PreTrainedModel, config: LoraConfig, name: str, options: dict[str, Any]) -> PeftModel:
    """Return `model` with fresh LoRA layers of `config`, named `name`; its modules are wrapped in place."""
    with loading(), warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 for a property under its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return PeftModel(model, config, adapter_name=name, **options)


def check_adapter_tensors(model: PeftModel, name: str, file: Path) -> None:
    """Raise `WeightsError` unless `file` holds exactly the LoRA tensors of adapter `name`; peft only warns."""
    with safe_open(file, framework="pt") as tensors:
        given = set(tensors.keys())
    expected = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    if missing := expected - given:
        raise WeightsError(f"the adapter in {file.parent} lacks {len(missing)} tensors of this model's layers")
    if extra := {key for key in given - expected if ".lora_" in key}:
        raise WeightsError(f"the adapter in {file.parent} is for another model: it has {len(extra)} tensors too many")


def first_line(error: Exception) -> str:
    """Return the start of a library's message: theirs run over many lines of advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
