"""How to cut a prompt into chunks."""
