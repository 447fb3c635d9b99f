"""What every endpoint that generates shares: the clients of the engine and of a server in its place."""
