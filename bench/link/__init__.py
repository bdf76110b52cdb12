"""A link between cloud and devices with given rates, delay, jitter, losses, or a recorded trace."""
