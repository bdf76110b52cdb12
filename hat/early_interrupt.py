"""Ctrl-C while nothing has begun: the program is gone at once, with one line.

Python raises KeyboardInterrupt wherever it happens to be, and inside an import that is somebody
else's code, which shows a traceback, swallows it or fails in another way. Nothing that takes time
is imported here.
"""

import os
import signal

INTERRUPTED = 130
_LINE = b"hat: interrupted\n"
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Windows has no SIGHUP."""


def leave_at_once() -> None:
    """From now on Ctrl-C ends the process; for programs whose work has not begun, or has ended."""
    # A supervisor or a shell that has it ignored means it.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, leave)


def raise_again() -> None:
    """From now on Ctrl-C is Python's KeyboardInterrupt, for work that wants to clean up."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupt_once() -> None:
    """From now on the first Ctrl-C, SIGTERM or SIGHUP is Python's KeyboardInterrupt.

    Those that follow are nothing: by then the work cleans up. Whoever asks for this must not live
    on without bound afterwards.
    """
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: object = None, frame: object = None) -> None:
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def leave(number: object = None, frame: object = None) -> None:
    """End this process as interrupted; a handler of signals."""
    # No interpreter shutdown: that runs code of half-imported modules.
    os.write(2, _LINE)
    os._exit(INTERRUPTED)


class NothingBegun:
    """Ctrl-C in the body ends the process: it only imports. So does all else that interrupts."""

    def __enter__(self) -> None:
        self._previous = {number: signal.getsignal(number) for number in _ENDING}
        leave_at_once()
        for number, handler in self._previous.items():
            if handler is _interrupt:
                signal.signal(number, leave)

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
