"""What every request meets: names, keys, origins, CORS, unknown paths."""
