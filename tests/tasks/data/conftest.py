"""The tokenizers that the data tests share."""

import pytest
from transformers import AutoTokenizer


@pytest.fixture(scope="session")
def chat_tokenizer(tiny_llama_dir):
    """A byte-level tokenizer with a ChatML template; read-only."""
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


@pytest.fixture(scope="session")
def plain_tokenizer(tiny_gpt2_dir):
    """A byte-level tokenizer without a template; read-only."""
    return AutoTokenizer.from_pretrained(tiny_gpt2_dir)
