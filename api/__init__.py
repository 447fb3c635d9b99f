"""Every endpoint: the REST API, the engine's process, and the command line."""
