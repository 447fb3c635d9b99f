"""LoRA weights from a folder: checked against the base by peft's own rules, one factor pair per merged product."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from tasks.inference.network.shape import ProductName, ProductShape, Shape
from tasks.models.errors import WeightsError
from tasks.models.loading import LOAD_ERRORS, adapter_config, adapter_files, first_line, weight_shapes, wrap
from tasks.models.loading import check_adapter_tensors as check_tensors
from tasks.models.process_state import loading


@dataclass(frozen=True)
class Factors:
    """The LoRA factors of one product: `down` `[rank, inputs]`, and `up` `[rank, outputs]`, multiplied by the scale."""

    down: Tensor
    up: Tensor


AdapterLayer = Mapping[ProductName, Factors]
AdapterLayers = list[AdapterLayer]


class AdapterReader:
    """Reads adapters of one base. It keeps the base's modules, without weights, to attach adapters by peft's rules."""

    def __init__(self, config: PretrainedConfig, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self._config, self._shape, self._dtype, self._device = config, shape, dtype, device
        self._skeleton: torch.nn.Module | None = None
        self._scales_by_recipe: dict[str, dict[str, float]] = {}

    def read(self, folder: Path) -> AdapterLayers:
        """Return the factors of every layer; raises `WeightsError` for what can't be served."""
        config = adapter_config(folder)
        file = adapter_files(folder)[0]
        try:
            scales = self._scales(config, file)
            tensors = load_file(file)
        except LOAD_ERRORS as error:
            raise WeightsError(f"the adapter in {folder} can't be attached: {first_line(error)}") from error
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise WeightsError(f"the adapter in {folder} holds numbers that are not finite, in {name}")
        layers = [self._layer(number, tensors, scales) for number in range(self._shape.layers)]
        served = {
            f"{self._shape.layer_prefix}{number}.{part}"
            for number in range(self._shape.layers)
            for product in self._shape.products.values()
            for part, _ in product.parts
        }
        if others := sorted(set(scales) - served):
            raise WeightsError(f"the adapter in {folder} changes {others[0]}: only attention and MLP can be adapted")
        return layers

    def _scales(self, config: LoraConfig, file: Path) -> dict[str, float]:
        """Return the scale of every module that peft would adapt; raises what peft raises for another base's adapter.

        Attaching takes 0.25 s, and adapters of one recipe differ in their values only: the result is cached.
        """
        recipe = json.dumps([config.to_dict(), sorted(weight_shapes([file]))], default=str, sort_keys=True)
        if recipe not in self._scales_by_recipe:
            self._scales_by_recipe[recipe] = self._attached_scales(config, file)
        return self._scales_by_recipe[recipe]

    def _attached_scales(self, config: LoraConfig, file: Path) -> dict[str, float]:
        if self._skeleton is None:
            with loading(), torch.device("meta"):
                self._skeleton = AutoModelForCausalLM.from_config(self._config)
        attached = wrap(self._skeleton, config, "read", {"autocast_adapter_dtype": False, "low_cpu_mem_usage": True})
        try:
            check_tensors(attached, "read", file)
            return {name: module.scaling["read"] for name, module in _adapted(attached)}
        finally:
            attached.base_model.unload()

    def _layer(self, number: int, tensors: dict[str, Tensor], scales: dict[str, float]) -> AdapterLayer:
        layer: dict[ProductName, Factors] = {}
        for name, product in self._shape.products.items():
            downs, ups, offset = [], [], 0
            for part, outputs in product.parts:
                module = f"{self._shape.layer_prefix}{number}.{part}"
                if module in scales:
                    down = tensors[f"base_model.model.{module}.lora_A.weight"].float()
                    up = tensors[f"base_model.model.{module}.lora_B.weight"].float().t() * scales[module]
                    if down.shape != (len(up), product.inputs) or up.shape[1] != outputs:
                        raise WeightsError(f"the adapter's {module} does not have this base's sizes")
                    downs.append(down)
                    ups.append(torch.nn.functional.pad(up, (offset, product.outputs - offset - outputs)))
                offset += outputs
            if downs:
                layer[name] = Factors(self._placed(downs), self._placed(ups))
        return layer

    def _placed(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).to(self._device, self._dtype)


def adapter_ranks(folder: Path, shape: Shape) -> Iterator[tuple[ProductShape, list[int]]]:
    """Yield each layer's products with the ranks of their parts, 0 for a part without adapter, from the file's header.

    Raises:
        WeightsError: the file is missing, cut short or not safetensors.
    """
    ranks = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): size[0]
        for name, size in weight_shapes(adapter_files(folder)).items()
        if name.endswith(".lora_A.weight")
    }
    for number in range(shape.layers):
        for product in shape.products.values():
            yield product, [ranks.get(f"{shape.layer_prefix}{number}.{part}", 0) for part, _ in product.parts]


def adapter_bytes(folder: Path, shape: Shape, dtype: torch.dtype) -> int:
    """Return the memory that the adapter will take in torch: its own tensors and its place in a batch.

    Raises what `adapter_ranks` raises.
    """
    found = adapter_ranks(folder, shape)
    return 2 * dtype.itemsize * sum(sum(ranks) * (product.inputs + product.outputs) for product, ranks in found)


def _adapted(model: PeftModel) -> Iterable[tuple[str, LoraLayer]]:
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module
