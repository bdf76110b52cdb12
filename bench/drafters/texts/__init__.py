"""What the model itself writes: the prompts, the rule of choice, its answers, kept in a folder."""
