"""Where one generation has its caches: a sequence on the engine and a session in the cloud.

What a finished generation leaves is kept, and outlives its socket: the cloud keeps the session for
a while, and whoever wants it next takes it up by its key. Rows may follow the question at once:
what was kept had been answered as a whole, so all is there, or the cloud refuses the rows.

It may outlive the program too. Then the device's own caches are made again from the text, which
costs no upload.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.engines.engine import DeviceEngine, SequenceId, Workers
from device_runtime.link.carried import Carried
from device_runtime.link.link import Link
from device_runtime.link.session import LinkSession, SessionName, SessionRefusedError
from device_runtime.session.running_texts import Run
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import NO_SESSION, Fault

_MADE_AT_ONCE = 128
"""Tokens of one call on the engine, between which others have their turn."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A session of an earlier run of the program, and its text `[N]`."""

    name: SessionName
    text: NDArray[np.int64]


class Place:
    """Both caches of one session; `release` ends both, once, whatever had been opened.

    `num_cached_tokens` positions are in both, as far as is known before the cloud has said so.
    """

    def __init__(
        self,
        workers: Workers,
        link: Link,
        stream: LinkSession | Remembered,
        num_cached_tokens: int = 0,
    ) -> None:
        self.workers = workers
        self.name = stream.name
        self._stream = None if isinstance(stream, Remembered) else stream
        self._remembered = stream if isinstance(stream, Remembered) else None
        self._num_made_tokens = 0
        """Of a remembered text, so much is in the engine's caches; its thread alone changes it."""
        self.num_cached_tokens = num_cached_tokens
        self._link = link
        self.is_kept = False
        """Whether an earlier generation has left it, so that the cloud knows it."""
        self.is_written = False
        """Whether it may outlive the program."""
        self.next_epoch = 1
        self._trace_id = b""
        self.carried_before = Carried()
        """What earlier generations sent and received here."""
        self.run: Run[Place] | None = None
        """The generation that has it, as others see it that would share its prompt."""
        self.supersedes: Place | None = None
        """A kept place, of use no longer once this one is confirmed."""
        self.refusal: SessionRefusedError | None = None
        """Why the cloud did not want it."""
        self._sequence: SequenceId | None = None
        self._is_taken_up = False
        """Whether it was asked for by its key, and the cloud has not been heard since."""
        self.is_released = False

    @property
    def sequence(self) -> SequenceId:
        """The engine's sequence, once made."""
        assert self._sequence is not None, "the sequence is made before it is used"
        return self._sequence

    @property
    def stream(self) -> LinkSession:
        """The session in the cloud, once this program has asked for it."""
        assert self._stream is not None, "a remembered session is taken up before it is used"
        return self._stream

    @property
    def is_live(self) -> bool:
        """Whether it may be used on the connection that there is."""
        return self._stream is not None and self._stream.is_live

    @property
    def is_alive(self) -> bool:
        """Whether the cloud still holds its side, as far as is known, and will for a while."""
        is_there = self._stream is None or self._stream.is_live or self._stream.is_lost
        return is_there and not self._link.is_leaving

    @property
    def carried(self) -> Carried:
        """What this generation has sent and received here."""
        return self.stream.carried.since(self.carried_before)

    @property
    def max_frame_tokens(self) -> int:
        """The longest frame that the cloud takes now."""
        assert self._link.limits is not None, "places are on a connection"
        return self._link.limits.max_frame_tokens

    async def make_sequence(self, make: Callable[[DeviceEngine], SequenceId]) -> None:
        """Open or fork on the engine's thread; on any failure, nothing of the place remains."""

        def remember(engine: DeviceEngine) -> None:
            # On the engine's thread, so that a caller cancelled meanwhile leaks nothing.
            self._sequence = make(engine)

        try:
            await self.workers.run(remember)
        except BaseException:
            self.release()
            raise

    def take_up(self) -> None:
        """Ask for a kept session by its key, if its connection is gone; rows may follow at once.

        Raises:
            LinkLostError: there is no connection.
        """
        lost = self._stream
        if lost is None:
            self._stream = self._link.take_up(self.name)
        elif lost.is_live:
            return
        else:
            self._stream = self._link.reopen(lost)
            lost.abandon()
        self._is_taken_up = True

    @property
    def is_made(self) -> bool:
        """Whether the engine has all that the session is known to hold."""
        return self._remembered is None

    @property
    def num_remembered_tokens(self) -> int:
        """The length of the text of which the engine's caches are still to be made."""
        return 0 if self._remembered is None else len(self._remembered.text)

    async def make_again(self, num_tokens: int) -> bool:
        """Fill the engine's caches with the first tokens of a remembered text.

        False if the cloud says meanwhile that it has lost them. Others may do the same at once.
        """
        while not self.is_released and self._num_made_tokens < num_tokens and not self.is_made:
            num_held = None if self._stream is None else self._stream.num_cached_tokens
            if num_held is not None and num_held < num_tokens:
                return False
            await self.make_some(num_tokens)
        return not self.is_released

    async def make_some(self, num_tokens: int) -> None:
        """Bring them a piece nearer to that."""

        def make(engine: DeviceEngine) -> None:
            remembered, start = self._remembered, self._num_made_tokens
            if remembered is None or start >= num_tokens or self.is_released:
                return
            if self._sequence is None:
                self._sequence = engine.open()
            ids = remembered.text[start : min(start + _MADE_AT_ONCE, num_tokens)]
            engine.input_rows(self._sequence, ids.tolist(), start)
            self._num_made_tokens = start + len(ids)
            if self._num_made_tokens == len(remembered.text):
                self._remembered = None

        await self.workers.run(make)

    def continued(self) -> None:
        """Its text is another one from now on, all of which the engine has."""
        self._remembered = None

    async def confirm(self) -> None:
        """Wait until the cloud has its side too.

        Raises:
            CloudUnavailableError: it does not let the session begin, or has lost what was kept.
            RemoteProtocolError: a new session holds another number of tokens than was asked for.
        """
        if self.is_kept and not self._is_taken_up:
            return
        cached, expected = await self.stream.opened(), self.num_cached_tokens
        self._is_taken_up = False
        if cached == expected or (self.is_kept and cached > expected):
            return
        reason = f"expected {expected} cached tokens, got {cached}"
        if self.is_kept:
            # What rows were sent behind the question are refused as well, and end the session.
            raise SessionRefusedError(Fault(FaultCode.UNKNOWN_SESSION, NO_SESSION, 0.0, reason))
        raise RemoteProtocolError(FaultCode.POSITION_MISMATCH, reason)

    def trace(self, trace_id: bytes) -> None:
        """What is done here from now on is for the request of this id; the cloud is told so."""
        self._trace_id = trace_id
        self.stream.trace(trace_id)

    async def reopen(self) -> int:
        """Take the session up again after its stream has failed; what the cloud still holds of it.

        Raises:
            CloudUnavailableError: no connection, or the cloud does not want it now.
        """
        self.stream.abandon()
        self._stream = self._link.reopen(self.stream)
        self.stream.trace(self._trace_id)
        return await self.stream.opened()

    def refused(self, refusal: SessionRefusedError) -> None:
        """Release it, since the cloud does not want it."""
        self.refusal = refusal
        # The generation goes on in another place.
        run, self.run = self.run, None
        if run is not None:
            run.settle(0)
        self.release()

    def release(self) -> None:
        """Free both sides; never waits."""
        if not self.is_released and self._stream is not None:
            self._stream.close()
        self._release_here()

    def leave_to_cloud(self) -> None:
        """Free this side alone: a later run of the program may take it up."""
        if not self.is_released and self._stream is not None:
            self._stream.abandon()
        self._release_here()

    def _release_here(self) -> None:
        if self.is_released:
            return
        self.is_released = True
        self.end_run()
        self.workers.run_later(self._release_sequence)

    def end_run(self) -> None:
        """No generation has it any more."""
        run, self.run = self.run, None
        if run is not None:
            run.end()

    def _release_sequence(self, engine: DeviceEngine) -> None:
        if self._sequence is not None:
            engine.release(self._sequence)
