"""What is asked, when, and how long it is: prompts, arrivals and lengths, all from a seed."""
