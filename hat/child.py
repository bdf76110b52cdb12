"""`python -m hat.child ...`: a `hat` command that never outlives the process that started it."""

import os
import signal
import threading
import time
from typing import NoReturn

from hat.early_interrupt import leave_at_once
from hat.rooms import leave_if_foreign

GRACE_S = 5.0
"""How long running work may take once the parent is gone."""


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    leave_at_once()
    leave_if_foreign()
    end_with_parent()
    from hat.cli import main as run_and_exit

    run_and_exit()


def end_with_parent(grace_s: float = GRACE_S) -> None:
    """End this process, softly and then by force, when its standard input ends.

    That is a pipe which the parent holds open and never writes to. However the parent ends,
    `kill -9` included, the pipe ends with it.
    """
    threading.Thread(
        target=_await_end, args=(grace_s,), name="end-with-parent", daemon=True
    ).start()


def _await_end(grace_s: float) -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
