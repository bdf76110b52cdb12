"""Frames as a broken or hostile device would send them."""

import random
from collections.abc import Callable

import numpy as np

from tests.support.cloud_client import HIDDEN, states
from wire.codec import encode
from wire.messages import Close, Hello, Message, Open, SessionId, Want

_MAX_RANDOM_BYTES = 600
_NUM_SESSIONS = 4


class FrameSource:
    """Valid frames, mutated ones and noise, in a seeded order."""

    def __init__(self, seed: int, hello: Hello) -> None:
        self._draws = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self._hello = hello

    @property
    def hello(self) -> bytes:
        """What begins a connection, now and then not as it should."""
        frame = encode(self._hello)
        return self._mutated(frame) if self._draws.random() < 0.1 else frame

    @property
    def frame(self) -> bytes:
        """Anything else; most of it was a message once."""
        kind = self._draws.random()
        if kind < 0.1:
            return self._draws.randbytes(self._draws.randrange(_MAX_RANDOM_BYTES))
        frame = encode(self._message())
        return frame if kind < 0.4 else self._mutated(frame)

    def _message(self) -> Message:
        session = self._draws.randint(1, _NUM_SESSIONS)
        make: Callable[[int], Message] = self._draws.choice(
            (self._open, self._open, self._states, self._states, self._states, self._close)
        )
        return make(session)

    def _open(self, session: int) -> Message:
        fork = self._draws.random() < 0.2
        max_tokens = self._draws.choice((1, 16, 64, 512, 513, 2**32 - 1))
        other = session % _NUM_SESSIONS + 1
        origin = (SessionId(other), self._draws.randrange(min(max_tokens, 64))) if fork else ()
        return Open(SessionId(session), self._draws.randbytes(16), max_tokens, *origin)

    def _states(self, session: int) -> Message:
        rows = self._numbers.standard_normal((self._draws.randint(1, 4), HIDDEN)).astype(np.float32)
        position = self._draws.choice((0, 0, 1, 3, 500, 2**31))
        want = self._draws.choice(list(Want))
        return states(session, position, rows, want)

    def _close(self, session: int) -> Message:
        return Close(SessionId(session))

    def _mutated(self, frame: bytes) -> bytes:
        """One to three changes of a frame's bytes or length; most are near its header."""
        data = bytearray(frame)
        for _ in range(self._draws.randint(1, 3)):
            end = len(data) if self._draws.random() < 0.3 else min(len(data), 48)
            place = self._draws.randrange(end) if end else 0
            match self._draws.randrange(5):
                case 0 if data:
                    data[place % len(data)] ^= 1 << self._draws.randrange(8)
                case 1 if data:
                    data[place % len(data)] = self._draws.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 2:
                    del data[place:]
                case 3:
                    data[place:place] = self._draws.randbytes(self._draws.randint(1, 16))
                case _:
                    del data[place : place + self._draws.randint(1, 8)]
        return bytes(data)
