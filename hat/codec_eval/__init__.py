"""What each codec of the link costs an answer, measured on a model and a text."""
