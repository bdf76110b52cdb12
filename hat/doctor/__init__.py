"""`hat doctor`: what this device, its link and its cloud can do, what to expect, what to change."""
