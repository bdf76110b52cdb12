"""What is drafted next, and by whom: what brings the most tokens per second, by measure."""
