"""`python -m hat` and the `hat` command: everything else is imported under a handler of Ctrl-C."""

from hat.early_interrupt import leave, leave_at_once
from hat.rooms import leave_if_foreign


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        leave_at_once()
        leave_if_foreign()
        from hat.cli import main as run_and_exit
    except KeyboardInterrupt:
        # It came before there was a handler.
        leave()
    run_and_exit()


if __name__ == "__main__":
    # Processes that the program starts may import this module by its name.
    main()
