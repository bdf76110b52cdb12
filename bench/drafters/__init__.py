"""What each drafter brings, replayed along what the model itself writes, and over real links."""
