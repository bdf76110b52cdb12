"""What one step teaches an adapter: where it begins, what it is held against, how far it is."""
