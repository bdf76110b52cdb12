"""Where one generation has its caches: a sequence on the engine and a session in the cloud.

What a finished generation leaves is kept, and outlives its socket: the cloud keeps the session for
a while, and whoever wants it next takes it up by its key. Rows may follow the question at once:
what was kept had been answered as a whole, so all is there, or the cloud refuses the rows.
"""

from collections.abc import Callable

from device_runtime.engines.engine import DeviceEngine, SequenceId, Workers
from device_runtime.link.link import Link
from device_runtime.link.session import LinkSession, SessionRefusedError
from device_runtime.session.running_texts import Run
from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import NO_SESSION, Fault


class Place:
    """Both caches of one session; `release` ends both, once, whatever had been opened.

    `num_cached_tokens` positions are in both, as far as is known before the cloud has said so.
    """

    def __init__(
        self, workers: Workers, link: Link, stream: LinkSession, num_cached_tokens: int = 0
    ) -> None:
        self.workers = workers
        self.stream = stream
        self.num_cached_tokens = num_cached_tokens
        self._link = link
        self.is_kept = False
        """Whether an earlier generation has left it, so that the cloud knows it."""
        self.next_epoch = 1
        self.bytes_before = (0, 0)
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
    def is_alive(self) -> bool:
        """Whether the cloud still holds its side, as far as is known, and will for a while."""
        return (self.stream.is_live or self.stream.is_lost) and not self._link.is_leaving

    @property
    def num_bytes(self) -> tuple[int, int]:
        """What this generation has sent and received here."""
        up, down = self.bytes_before
        return self.stream.bytes_up - up, self.stream.bytes_down - down

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
        if self.stream.is_live:
            return
        lost, self.stream = self.stream, self._link.reopen(self.stream)
        lost.abandon()
        self._is_taken_up = True

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

    async def reopen(self) -> int:
        """Take the session up again after its stream has failed; what the cloud still holds of it.

        Raises:
            CloudUnavailableError: no connection, or the cloud does not want it now.
        """
        self.stream.abandon()
        self.stream = self._link.reopen(self.stream)
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
        if self.is_released:
            return
        self.is_released = True
        self.end_run()
        self.stream.close()
        self.workers.run_later(self._release_sequence)

    def end_run(self) -> None:
        """No generation has it any more."""
        run, self.run = self.run, None
        if run is not None:
            run.end()

    def _release_sequence(self, engine: DeviceEngine) -> None:
        if self._sequence is not None:
            engine.release(self._sequence)
