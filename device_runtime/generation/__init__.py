"""What a generation is asked, what it yields, and what it did in numbers."""
