"""The API in process over a real engine process, as for OpenAI's endpoints."""

from tests.api.openai.conftest import data_dir, engine_process, settings

__all__ = ["data_dir", "engine_process", "settings"]
