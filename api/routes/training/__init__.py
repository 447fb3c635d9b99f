"""Training jobs: create, follow, pause and resume."""
