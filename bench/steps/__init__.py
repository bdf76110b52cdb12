"""Steps and rounds of single parts, timed."""
