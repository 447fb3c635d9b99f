"""The chat templates that the platform brings, by the names of their files."""
