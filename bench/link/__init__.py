"""A link between cloud and devices with a given rate, delay, jitter, loss or recorded trace."""
