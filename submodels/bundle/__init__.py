"""A bundle: one side of a split model as a folder of files."""
