"""What each client is asked to do."""
