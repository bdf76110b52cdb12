"""What is simulated: like a live run, as in the paper, or at scale; and where times are from."""
