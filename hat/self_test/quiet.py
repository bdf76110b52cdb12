"""Keeps what libraries and their processes print out of the way, and at hand."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NUM_LINES = 20


class Quiet:
    """Sends the output of this process, and of those it starts meanwhile, to a file.

    Processes that were started meanwhile keep writing there. None: nothing is kept away.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def forget(self) -> None:
        """What was kept away so far is not shown any more."""
        if self._file is not None and self._file.exists():
            os.truncate(self._file, 0)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Redirect the two output descriptors, and put them back."""
        if self._file is None:
            yield
            return
        _flush()
        kept = [os.dup(number) for number in (1, 2)]
        target = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for number in (1, 2):
                os.dup2(target, number)
            yield
        finally:
            _flush()
            for number, original in zip((1, 2), kept, strict=True):
                os.dup2(original, number)
                os.close(original)
            os.close(target)

    def last_lines(self) -> list[str]:
        """The end of what was kept away, without empty lines."""
        if self._file is None or not self._file.exists():
            return []
        text = self._file.read_bytes().decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()][-_NUM_LINES:]


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
