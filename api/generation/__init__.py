"""The one service under every route that generates: limits, places, the engine or a server in its stead, counting."""
