"""`python -m hat`: the same as the `hat` command."""

from hat.cli import main

main()
