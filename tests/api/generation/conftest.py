"""The client is tested on the same real engine process as the server."""

from tests.api.engine_server.conftest import data_dir, engine_process

__all__ = ["data_dir", "engine_process"]
