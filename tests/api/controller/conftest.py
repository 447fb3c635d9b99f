"""Both databases, as the registry's tests have them."""

from tests.registry.conftest import database, database_url

__all__ = ["database", "database_url"]
