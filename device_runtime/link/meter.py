"""Tells a `StateMonitor` what passes on one socket, and when."""

from collections.abc import Callable
from typing import Final

from chunking.state_monitor import AnsweredFrame, StateMonitor
from wire.messages import Message, Open, Opened, Reply, SessionId, States

_MAX_TRACKED_OPENS = 64


class LinkMeter:
    """Of one connection; what the monitor learns outlives it. `clock` is monotonic, in seconds."""

    def __init__(self, monitor: StateMonitor, clock: Callable[[], float]) -> None:
        self.monitor: Final = monitor
        self._clock = clock
        self._opens_s: dict[SessionId, float] = {}

    def on_write(self, message: Message, num_bytes: int) -> None:
        """A message is handed to the socket, behind all before it."""
        match message:
            case States():
                key = (message.session, message.epoch, message.position)
                self.monitor.link.on_sent(key, num_bytes, self._clock())
            case Open():
                if len(self._opens_s) >= _MAX_TRACKED_OPENS:
                    del self._opens_s[next(iter(self._opens_s))]
                self._opens_s[message.session] = self._clock()
            case _:
                pass

    def on_read(self, message: Message, num_bytes: int) -> None:
        """A message has come."""
        match message:
            case Reply():
                answered = AnsweredFrame(
                    num_rows=message.cached_tokens - message.position,
                    num_reply_bytes=num_bytes,
                    queue_s=message.queue_s,
                    compute_s=message.compute_s,
                    batch_tokens=message.batch_tokens,
                )
                key = (message.session, message.epoch, message.position)
                self.monitor.on_reply(key, answered, self._clock())
            case Opened() if message.session in self._opens_s:
                trip_s = self._clock() - self._opens_s.pop(message.session)
                self.monitor.link.on_round_trip(trip_s)
            case _:
                pass

    def on_lost(self) -> None:
        """The socket is gone, and what was in flight with it."""
        self._opens_s.clear()
        self.monitor.link.on_lost()
