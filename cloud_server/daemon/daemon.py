"""The core, the engine's steps and the devices' sockets, joined in one event loop.

Decides nothing: it tells the core what came, and does what the core answers.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cloud_server.core.actions import (
    Action,
    CloseConnection,
    ConnectionId,
    Identity,
    Send,
    Step,
    StepOutcome,
    Traced,
    Unpack,
)
from cloud_server.core.config import CoreConfig, CoreFigures
from cloud_server.core.core import CloudCore
from cloud_server.core.figures import NameFigures
from cloud_server.core.names.people import Person
from cloud_server.core.names.tokens import Name
from cloud_server.daemon.connection import Connection, SendLimits
from cloud_server.daemon.encoder import Encoder
from cloud_server.daemon.metrics import Metrics
from cloud_server.daemon.rhythm import EngineRhythm, NamesNow, Patience
from cloud_server.daemon.steps import Steps
from process.program.logs import with_fields
from process.quiet_log import QuietLog
from process.world import Aside, Clock, Randomness
from wire.coding.row_codecs import (
    LEAST_ASIDE_BYTES,
    MakeCodecs,
    Unpacked,
    row_codecs,
)
from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import ITEM_BYTES, KEY_BYTES, MAX_TAPS
from wire.messages import NO_SESSION, Fault, Joined, Payload, Welcome

__all__ = ["CloudDaemon", "EngineRhythm", "NamesNow", "Patience"]

_log = logging.getLogger(__name__)

STEP_LINE = "step of %d rows of %d sequences took %.6f s"
"""What is logged of every step, for whom the histogram of the metrics is too coarse."""

_BROKEN_AFTER_FAILED_STEPS = 3
"""So many steps in a row that raise are not one session's fault, but an engine that is lost."""

_SPARE_BACKLOG_BYTES = 1 << 20
"""For messages without rows, above two windows of rows."""

_LAST_WRITES_S = 2.0

_RESTARTS_WITHOUT_A_STEP = 3
"""So many losses with no step between them: what is asked of the engine breaks it each time."""


class CloudDaemon:
    """Serves devices with a loaded engine until it is told to stop. Belongs to one event loop.

    `clock` is the event loop's. Keys of lanes come from `randomness`; without it there are none.
    `aside` makes a call that takes long, somewhere else. `names` says who may come; it is asked
    about once a second, and without it there are no names.
    """

    def __init__(
        self,
        settings: CoreConfig,
        engine: Steps,
        metrics: Metrics,
        patience: Patience,
        rhythm: EngineRhythm,
        clock: Clock,
        randomness: Randomness | None = None,
        aside: Aside = asyncio.to_thread,
        make_codecs: MakeCodecs = row_codecs,
        names: Callable[[], NamesNow] | None = None,
    ) -> None:
        self._clock = clock
        self._names = names
        self._aside = aside
        self._unpacking: set[asyncio.Task[None]] = set()
        self._randomness = randomness
        if randomness is None:
            settings = replace(settings, max_lanes=0)
        self._core = CloudCore(settings, make_codecs)
        self._encoder = Encoder(self._core.codecs, metrics, aside)
        self._engine = engine
        self._metrics = metrics
        self._rhythm = rhythm
        self._loop = asyncio.get_running_loop()
        self._faults = QuietLog(_log, clock, self._loop.call_later)
        self._connections: dict[ConnectionId, Connection] = {}
        self._num_connected = 0
        self._num_running_steps = 0
        self._num_failed_in_a_row = 0
        self._num_lost_in_a_row = 0
        self._is_restarting = False
        self._is_given_up = False
        self._is_pump_due = False
        self._looking: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        row_bytes = settings.hidden_size * ITEM_BYTES[settings.dtype]
        # As long as a reply to all that a device may have outstanding can be.
        row_bytes *= 1 + MAX_TAPS if settings.takes_taps else 1
        backlog_bytes = 2 * settings.credit_window_tokens * row_bytes + _SPARE_BACKLOG_BYTES
        self.send_limits = SendLimits(backlog_bytes, patience.stall_timeout_s)
        self._tick_s = patience.tick_s
        self.silence_s = patience.silence_s
        engine.listen(self)
        self._admit()
        self._ticking = self._loop.create_task(self._tick())

    @property
    def max_frame_bytes(self) -> int:
        """The longest frame that a device may send."""
        return self._core.max_frame_bytes

    @property
    def is_broken(self) -> bool:
        """Whether the engine seems lost; it is tried again with every step."""
        if self._is_given_up or self._num_lost_in_a_row >= _RESTARTS_WITHOUT_A_STEP:
            return True
        return self._num_failed_in_a_row >= _BROKEN_AFTER_FAILED_STEPS

    @property
    def is_given_up(self) -> bool:
        """Whether a lost engine could not be loaded again."""
        return self._is_given_up

    @property
    def is_restarting(self) -> bool:
        """Whether the engine was lost and is being loaded again."""
        return self._is_restarting

    @property
    def is_computing(self) -> bool:
        """Whether a step is in the engine."""
        return self._num_running_steps > 0

    @property
    def is_draining(self) -> bool:
        """Whether new sessions are refused."""
        return self._core.is_draining

    def figures(self) -> CoreFigures:
        """The load at this moment."""
        return self._core.figures()

    def name_figures(self) -> Mapping[Name, NameFigures]:
        """The load by name."""
        return self._core.name_figures()

    def connect(
        self,
        connection: Connection,
        identity: Identity,
        begun_s: float | None = None,
        certificate: str | None = None,
    ) -> ConnectionId:
        """Take a new socket, its address and the name of its certificate, if it showed one.

        The time for its Hello counts from `begun_s`.
        """
        self._num_connected += 1
        number = ConnectionId(self._num_connected)
        self._connections[number] = connection
        _log.debug("connection %d opened", number)
        lane_key = self._randomness.randbytes(KEY_BYTES) if self._randomness is not None else b""
        now = begun_s or self._clock()
        self._perform(self._core.connect(number, now, identity, lane_key, certificate))
        return number

    def who_shows(self, number: ConnectionId, frame: bytes | str) -> Person | None:
        """Whose a socket is by its first frame; None: nobody's who may come."""
        return self._core.who_shows(number, frame, self._clock())

    async def unpacked(self, number: ConnectionId, frame: bytes | str) -> Unpacked | None:
        """What to give `receive` with a frame: of a long coded one its rows, made RAW elsewhere.

        Returns:
            None where there is nothing that would hold up the loop.
        """
        if isinstance(frame, str) or len(frame) < LEAST_ASIDE_BYTES:
            return None
        unpack = self._core.unpacking(number, frame)
        return None if unpack is None else await self._unpacked(unpack)

    async def _unpacked(self, unpack: Callable[[], Payload]) -> Unpacked:
        try:
            return await self._aside(unpack)
        except RemoteProtocolError as error:
            return error

    async def _unpack(self, action: Unpack) -> None:
        """Make rows RAW elsewhere, and tell the core."""
        try:
            unpacked = await self._unpacked(action.call)
        except (MemoryError, RuntimeError):
            # No memory, or no thread: the core would wait for these rows for ever.
            _log.exception("connection %d cut: its rows cannot be decoded", action.connection)
            connection = self._connections.get(action.connection)
            if connection is not None:
                connection.abort()
            return
        self._perform(self._core.unpacked(action.connection, unpacked))

    def receive(
        self,
        number: ConnectionId,
        frame: bytes | str,
        unpacked: Unpacked | None = None,
        came_s: float | None = None,
    ) -> None:
        """Take one frame of a socket, which came at `came_s`; `str` is a text frame."""
        self._metrics.received_bytes.inc(len(frame))
        now = self._clock() if came_s is None else came_s
        self._perform(self._core.receive_frame(number, frame, now, unpacked))

    def disconnect(self, number: ConnectionId) -> None:
        """Forget a socket that is gone."""
        if self._connections.pop(number, None) is not None:
            _log.debug("connection %d closed", number)
        self._perform(self._core.disconnect(number, self._clock()))

    def on_step_done(self, step: Step, outcome: StepOutcome) -> None:
        """See `StepListener`."""
        self._num_running_steps -= 1
        if step.items:
            self._note_success()
            _log.debug(STEP_LINE, step.num_tokens, len(step.items), outcome.seconds)
        self._metrics.count_step(step, outcome.seconds)
        actions = self._core.step_done(step, outcome, self._clock())
        # The engine first: sending what came out can wait until it is at work again.
        self._pump()
        self._perform(actions)

    def on_step_failed(self, step: Step, reason: str) -> None:
        """See `StepListener`."""
        self._num_failed_in_a_row += 1
        self._num_running_steps -= 1
        self._metrics.failed_steps.inc()
        if self._num_failed_in_a_row == _BROKEN_AFTER_FAILED_STEPS:
            _log.error(
                "%d steps failed in a row: not ready until one succeeds", _BROKEN_AFTER_FAILED_STEPS
            )
        self._perform(self._core.step_failed(step, reason, self._clock()))

    def on_engine_lost(self, reason: str) -> None:
        """See `StepListener`."""
        self._num_lost_in_a_row += 1
        self._num_running_steps = 0
        self._is_restarting = True
        self._metrics.lost_engines.inc()
        self._perform(self._core.engine_lost(reason, self._rhythm.load_s))

    def on_engine_ready(self) -> None:
        """See `StepListener`."""
        self._is_restarting = False
        # What failed did so in the one that is gone; while not ready, nobody would try this one.
        self._num_failed_in_a_row = 0
        self._core.engine_ready()
        self._pump_soon()

    def on_engine_given_up(self) -> None:
        """See `StepListener`."""
        self._is_given_up = True
        _log.error("the engine could not be loaded again: this cloud must be started anew")

    async def drain(self, timeout_s: float) -> None:
        """Refuse new sessions, and wait until the others are closed or time is up."""
        self._core.drain()
        self._note_if_drained()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), timeout_s)

    async def shut_down(self) -> None:
        """Tell every device to go, and close its socket."""
        self._ticking.cancel()
        if self._looking is not None:
            self._looking.cancel()
        connections = list(self._connections.values())
        self._perform(self._core.shut_down(self._clock()))
        await asyncio.gather(*(connection.end(_LAST_WRITES_S) for connection in connections))

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Unpack():
                    task = self._loop.create_task(self._unpack(action))
                    self._unpacking.add(task)
                    task.add_done_callback(self._unpacking.discard)
                case Traced(number, session, trace_id):
                    extra = with_fields(trace_id=trace_id.hex())
                    _log.debug("connection %d, session %d", number, session, extra=extra)
                case CloseConnection():
                    connection = self._connections.get(action.connection)
                    if connection is not None:
                        connection.finish()
        self._note_if_drained()
        self._pump_soon()

    def _send(self, action: Send) -> None:
        number, message = action.connection, action.message
        connection = self._connections.get(number)
        if connection is None:
            return
        if isinstance(message, Welcome | Joined):
            person = self._core.person_of(number)
            assert person is not None, "it was let in"
            connection.host.greeted(isinstance(message, Joined), person)
        if isinstance(message, Fault):
            self._note_fault(connection, action, message)
        if not connection.send(self._encoder.frame(message, action.codec)):
            _log.warning("connection %d cut: it does not read what it asked for", number)

    def _note_fault(self, connection: Connection, action: Send, fault: Fault) -> None:
        self._metrics.count_fault(fault.code)
        if fault.code is FaultCode.QUOTA:
            connection.host.limited()
        if fault.session == NO_SESSION:
            connection.host.refused(fault)
            return
        self._faults.say(
            logging.INFO,
            "connection %d%s, session %d: %s (%s)",
            action.connection,
            connection.host.where,
            fault.session,
            fault.code.name,
            fault.message,
            extra=with_fields(trace_id=action.trace_id.hex()) if action.trace_id else None,
        )

    def _pump_soon(self) -> None:
        """Give out a step once all frames that are already here have been taken."""
        if not self._is_pump_due and self._core.has_work:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pump_due = False
        while self._num_running_steps < self._rhythm.steps_in_flight:
            step = self._core.next_step(self._clock())
            if step is None:
                self._look_again()
                return
            self._num_running_steps += 1
            self._engine.submit(step)

    def _look_again(self) -> None:
        """Ask for a step later, where rows wait for nothing but the time."""
        after_s = self._core.look_again_s
        if after_s is not None and self._looking is None:
            self._looking = self._loop.call_later(after_s, self._look_now)

    def _look_now(self) -> None:
        self._looking = None
        self._pump()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            now = self._clock()
            self._admit()
            self._perform(self._core.tick(now))
            for number, connection in self._connections.items():
                if connection.is_stalled(now):
                    _log.warning("connection %d cut: nothing could be sent to it", number)
                    connection.abort()

    def _admit(self) -> None:
        """Tell the core who may come; connections of those who may no longer end."""
        if self._names is not None:
            tokens, unix_s = self._names()
            self._perform(self._core.admit(tokens, unix_s, self._clock()))

    def _note_success(self) -> None:
        if self.is_broken:
            _log.warning("the engine works again")
        self._num_failed_in_a_row = 0
        self._num_lost_in_a_row = 0

    def _note_if_drained(self) -> None:
        if self._core.is_drained:
            self._drained.set()
