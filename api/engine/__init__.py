"""The inference engine's own process, and the client with which the API process speaks to it."""
