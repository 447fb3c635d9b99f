"""A fine-tuned model as MLflow loads it: the full model, or base weights plus the adapter, that the version contains.

This file travels with the model version ("models from code"): it imports nothing of the platform, so that any
process with torch, transformers, peft and mlflow can call `mlflow.pyfunc.load_model("models:/NAME@champion")`.
"""

from pathlib import Path
from typing import Any

import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


class FineTunedModel(PythonModel):  # type: ignore[misc]  # mlflow has no types
    """Generates text with a full model, or with a base model and a LoRA adapter."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load weights, adapter and tokenizer; a base lies where it lay at training, or is found by its name."""
        config = context.model_config
        full_model, adapter = context.artifacts.get("model"), context.artifacts.get("adapter")
        base = config["base_folder"] if Path(config["base_folder"]).is_dir() else config["base_model"]
        model = AutoModelForCausalLM.from_pretrained(
            full_model or base, dtype=getattr(torch, config["dtype"]), use_safetensors=True
        ).eval()
        self.model = (
            model if full_model else PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).eval()
        )
        self.tokenizer = AutoTokenizer.from_pretrained(full_model or adapter)
        # The end of a turn is not always the token that ends a text. Versions of older platforms do not name it.
        self.end_token_ids = config.get("end_token_ids")

    def predict(
        self, context: PythonModelContext, model_input: list[str], params: dict[str, Any] | None = None
    ) -> list[str]:
        """Return each prompt followed by its greedy continuation.

        `params` are those of transformers' `generate`, such as `max_new_tokens` (default 64).
        """
        settings: dict[str, Any] = {"max_new_tokens": 64, "do_sample": False}
        if self.end_token_ids:
            settings["eos_token_id"] = self.end_token_ids
        settings |= params or {}
        return [prompt + self._continue(prompt, settings) for prompt in model_input]

    def _continue(self, prompt: str, settings: dict[str, Any]) -> str:
        batch = self.tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                pad_token_id=self.tokenizer.eos_token_id,
                **settings,
            )
        new_tokens = output[0, batch["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(new_tokens, skip_special_tokens=True))

    def logits(self, prompt: str) -> torch.Tensor:
        """Return the next-token logits at every position of the prompt: (tokens, vocabulary), float32."""
        batch = self.tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            output: torch.Tensor = self.model(input_ids=batch["input_ids"]).logits[0].float()
        return output


set_model(FineTunedModel())
