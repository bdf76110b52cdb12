"""Our client beside one that others wrote, at the same endpoint."""
