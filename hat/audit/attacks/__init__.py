"""What a cloud may do with rows: each a function of states, weights and randomness. Pure."""
