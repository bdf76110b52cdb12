"""From emissions to JSON and event streams."""
