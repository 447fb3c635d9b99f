"""Health: is the API running, and what are its services doing."""
