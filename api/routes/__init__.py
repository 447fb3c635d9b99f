"""The documented endpoints, one folder per resource."""
