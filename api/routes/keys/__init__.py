"""API keys that are made and revoked while the platform runs."""
