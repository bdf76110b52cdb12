"""`hat chat`: a conversation in the terminal."""
