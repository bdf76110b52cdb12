"""The shells around the core: sockets, the engine thread, metrics."""
