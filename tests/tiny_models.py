"""Tiny real transformers with real tokenizers, made on the spot: a Llama with a chat template and a GPT-2 without."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CORPUS = [
    "What does the Python function `json.dumps(obj)` do? Serialize obj to a JSON formatted str.",
    "Return the absolute value of the argument. Return a list of the names in the directory.",
    "The quick brown fox jumps over the lazy dog. The future of artificial intelligence is bright.",
    "def main(): raise ValueError('a number between 0 and 100'); import os, sys, json, math",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level_tokenizer(eos_token: str, extra: list[str], chat_template: str | None) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer: any text survives a round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[eos_token, *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos_token, bos_token=eos_token)
    if chat_template:
        fast.chat_template = chat_template
    return fast


def save_tiny_llama(folder: Path, context: int = 256) -> Path:
    """Save a two-layer Llama with grouped-query attention and a ChatML template in `folder`."""
    tokenizer = byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], CHAT_TEMPLATE)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_gpt2(folder: Path) -> Path:
    """Save a two-layer GPT-2 with a byte-level BPE tokenizer and no chat template in `folder`."""
    tokenizer = byte_level_tokenizer("<|endoftext|>", [], None)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=128,
            n_embd=32,
            n_layer=2,
            n_head=4,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
