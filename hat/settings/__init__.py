"""Settings: tables, sources, values, and how they are shown."""
