"""The subcommands; each imports what it runs only when it runs."""
