"""Tests of api.engine_server."""
