"""Signals that ask a supervisor to stop: the first drains, a second Ctrl-C kills."""

import asyncio
import signal

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """What signals have asked for so far; one event loop owns it."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.kill = asyncio.Event()

    def listen(self) -> None:
        """Take the stop signals of this process from now on."""
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self.on_signal, number)

    def on_signal(self, number: signal.Signals) -> None:
        """Stop; or kill, if Ctrl-C comes while already stopping."""
        if number is signal.SIGINT and self.stop.is_set():
            self.kill.set()
        self.stop.set()
