"""Which client answers requests for text: the platform's own engine, or an OpenAI-compatible server in its place."""

from api.generation.engine_client import EngineClient
from api.generation.openai_backend import OpenAIBackend
from configs.settings import Settings

SILENCE_SECONDS = 30.0
"""How much longer than the longest generation the engine may be silent before it is taken for dead."""
Inference = EngineClient | OpenAIBackend


def inference_client(settings: Settings) -> Inference:
    """Return the client that the settings ask for."""
    # The engine keeps to the limit itself, and says so; this is for one that says nothing at all.
    seconds = settings.generation_timeout_seconds + SILENCE_SECONDS
    if settings.backend_url is not None:
        return OpenAIBackend(settings.backend_url, settings.backend_api_key, seconds, settings.generation_connections)
    return EngineClient(settings.engine_url, seconds, settings.generation_connections)
