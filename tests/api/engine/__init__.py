"""Tests of api.engine."""
