"""`python -m hat`: the same as the `hat` command."""

from hat.cli import main

if __name__ == "__main__":
    # Processes that the program starts may import this module by its name.
    main()
