"""The platform as Prometheus sees it."""
