"""Whose a device is: names and their tokens, and what each name may have."""
