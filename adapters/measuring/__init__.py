"""How much a drafter gains, measured."""
