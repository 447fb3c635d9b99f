"""Every query of the platform, one module per resource; sessions and commits belong to the caller."""
