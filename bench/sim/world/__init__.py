"""What the production code stands in: engines and links that take time, and texts."""
