"""Which rows go into the next step, and how many."""
