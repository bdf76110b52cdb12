"""What hostile peers of one address cost an honest device of another: quiet against attacked."""
