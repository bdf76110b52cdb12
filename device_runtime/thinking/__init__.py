"""What a model writes before its answer: marks, and the text between them."""
