"""`hat up`: both sides on one machine."""
