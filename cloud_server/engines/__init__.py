"""What runs the middle layers, and what the daemon asks of it."""
