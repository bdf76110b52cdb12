"""From result files to one page, pictures and the README's table."""
