"""`python -m hat.child ...`: a `hat` command that never outlives the process that started it.

Its standard input is a pipe that the parent holds open and never writes to. However the parent
ends, `kill -9` included, the pipe ends with it.
"""

import os
import signal
import sys
import threading
import time
from typing import NoReturn

from hat.cli import run

GRACE_S = 5.0
"""How long running work may take once the parent is gone."""


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    sys.exit(run(sys.argv[1:]))


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
