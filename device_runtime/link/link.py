"""The link to the cloud: one socket at a time, made anew whenever it is lost."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from chunking.state_monitor import StateMonitor
from device_runtime.link.coding import LinkCoding
from device_runtime.link.config import LinkConfig, Patience, link_url
from device_runtime.link.connection import LinkConnection, LostError, RefusedError
from device_runtime.link.dialing import MAX_FRAME_TOKENS, Dial, Dialer
from device_runtime.link.lane_count import LaneTrust, LinkSize
from device_runtime.link.lanes import LanePlan
from device_runtime.link.meter import LinkMeter
from device_runtime.link.outbox import max_prefill_rows
from device_runtime.link.refusals import Refusal, of_error, of_fault, retry_delay_s, speaks_tls
from device_runtime.link.session import (
    CloudLeftError,
    LinkLostError,
    LinkSession,
    SessionName,
    Slowness,
)
from process.sockets.socket import Socket
from process.world import Clock, Randomness
from wire.coding.row_codecs import NO_CODECS
from wire.errors import FaultCode, RemoteProtocolError
from wire.limits import ITEM_BYTES
from wire.messages import Codec, Fault, Join, Welcome

_log = logging.getLogger(__name__)

_NO_TAPS = (
    "this cloud gives no rows of further layers, so the EAGLE-3 head drafts nothing; use a newer "
    "cloud with --engine torch, or another drafter"
)

_NO_ROUNDING = (
    "this cloud allows no lossy codecs, so rows are as they would be without; its operator allows "
    "them with --allow-lossy-codecs"
)


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What the cloud allows on this connection."""

    max_context_tokens: int
    max_frame_tokens: int
    session_ttl_s: float


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """Whether the cloud can be used now, else why not and when the next attempt is due."""

    is_connected: bool
    reason: str | None = None
    retry_after_s: float = 1.0
    is_refused: bool = False
    """The cloud is there, and has said itself that it does not serve this device, or not now."""


class Link:
    """Connects in the background, for ever; `open` works while it is connected.

    `monitor` learns of the link over all of its connections. `clock` is the event loop's; the keys
    of sessions come from `randomness`, and so does what retries wait. `dial` opens its sockets,
    None those of the cloud that the config names. `coding` makes that of each connection.

    Raises:
        StartError: when made, for an address, CA file or proxy that cannot be used.
    """

    def __init__(
        self,
        config: LinkConfig,
        clock: Clock,
        randomness: Randomness,
        monitor: StateMonitor | None = None,
        dial: Dial | None = None,
        coding: LinkCoding | None = None,
    ) -> None:
        self._config = config
        self.monitor = StateMonitor() if monitor is None else monitor
        self._coding = coding or LinkCoding(
            NO_CODECS, self.monitor, clock, rounding=config.rounding
        )
        self._where = urlsplit(link_url(config.url)).netloc
        self._dialer = Dialer(config)
        self._dial: Dial = dial or self._dialer
        self._clock = clock
        self._randomness = randomness
        self._connection: LinkConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self.mismatched = asyncio.Event()
        """Set while the cloud refuses this device for another model or other layers."""
        self.num_connections = 0
        """Connections that have worked so far."""
        self._slowness = Slowness()
        self._lane_trust = LaneTrust()
        self._lost_s: float | None = None
        self._lossy_codecs: Mapping[str, str] = {}
        self._asked_for_tls: Refusal | None = None
        self._wants_tls = False
        self._names_middle = True
        self._tried = asyncio.Event()
        self.taps = 0
        """Depths that sessions ask for (see `Open`), where the cloud knows them."""
        self.limits: LinkLimits | None = None
        self.status = LinkStatus(False, f"connecting to the cloud at {self._where}")

    def start(self) -> None:
        """Begin to connect; needs a running loop."""
        self._task = asyncio.create_task(self._run(), name="cloud link")

    async def close(self) -> None:
        """Send what was to be sent (the ends of sessions), then close the socket for good."""
        if self._connection is not None:
            await self._connection.flush()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_sessions()
        self.status = LinkStatus(False, "the link is closed")

    @property
    def patience(self) -> Patience:
        """How long it waits for what."""
        return self._config.patience

    @property
    def num_lanes(self) -> int:
        """Further sockets to the cloud that carry prompts now."""
        return 0 if self._connection is None else self._connection.num_lanes

    @property
    def lossy_codecs(self) -> Mapping[str, str]:
        """Which rows are rounded and how, by agreement with the cloud of now, or of last."""
        return self._lossy_codecs

    @property
    def is_leaving(self) -> bool:
        """Whether the cloud takes no new sessions, so that another connection comes next."""
        return self._connection is not None and self._connection.is_leaving

    @property
    def has_cloud(self) -> bool:
        """Whether a cloud is there that stays, be it one that refuses this device."""
        return self.status.is_refused or (self.status.is_connected and not self.is_leaving)

    def was_up_within(self, seconds: float) -> bool:
        """Whether it is up, or was so short a while ago."""
        is_recent = self._lost_s is not None and self._clock() - self._lost_s < seconds
        return self.status.is_connected or is_recent

    async def connected(self) -> None:
        """Wait until sessions can be opened."""
        await self._connected.wait()

    async def tried(self) -> None:
        """Wait until it is known how the first attempt to connect has ended."""
        await self._tried.wait()

    def open(
        self, max_tokens: int, fork_of: LinkSession | None = None, fork_tokens: int = 0
    ) -> LinkSession:
        """Ask for a session; rows may follow before its `opened()` tells that it is there.

        Raises:
            LinkLostError: there is no connection.
        """
        return self._live_connection().open(max_tokens, fork_of, fork_tokens)

    def reopen(self, lost: LinkSession) -> LinkSession:
        """Ask for a lost session by its key; await its `opened()` next, which may be 0.

        Raises:
            LinkLostError: there is no connection.
        """
        return self._live_connection().reopen(lost)

    def take_up(self, name: SessionName) -> LinkSession:
        """Ask for a session of an earlier run by its key; it may turn out to hold nothing.

        Raises:
            LinkLostError: there is no connection.
        """
        return self._live_connection().take_up(name)

    def _live_connection(self) -> LinkConnection:
        if self._connection is None:
            raise self._unavailable()
        if self._connection.is_leaving:
            raise LinkLostError(f"the cloud at {self._where} is shutting down")
        return self._connection

    async def _run(self) -> None:
        """Connect, carry, lose, wait, and so on."""
        attempt = 0
        was_draining = False
        while True:
            num_connections = self.num_connections
            refusal = await self._connect_and_carry()
            self._tried.set()
            # A cloud that drains lets itself be connected to: again and again is too often.
            is_same_again = was_draining and refusal.is_draining
            if self.num_connections > num_connections and not is_same_again:
                attempt = 0
            was_draining = refusal.is_draining
            if self.status.is_connected:
                self._lost_s = self._clock()
            delay_s = self._delay_s(refusal, attempt)
            if refusal.reason != self.status.reason:
                _log.warning("%s", refusal.reason)
            retry_s = max(1.0, delay_s)
            self.status = LinkStatus(False, refusal.reason, retry_s, refusal.is_told)
            if refusal.is_other_model:
                self.mismatched.set()
            self._fail_sessions(refusal.is_draining)
            attempt += 1
            await asyncio.sleep(delay_s)

    async def _connect_and_carry(self, is_second: bool = False) -> Refusal:
        """One connection from beginning to end; why it ended."""
        try:
            await self._carry()
        except RefusedError as error:
            return await self._refused(error.fault, is_second)
        except (
            LostError,
            RemoteProtocolError,
            aiohttp.ClientError,
            OSError,
            TimeoutError,
        ) as error:
            return await self._told(error)
        except Exception:
            # A bug here must not end the link for good.
            _log.exception("the link to the cloud failed")
            return Refusal(f"the link to the cloud at {self._where} failed, see the log")
        finally:
            self._connected.clear()
        raise AssertionError("a connection ends with an error")

    async def _carry(self) -> None:
        """Open a socket and greet the cloud, all within one deadline; then carry messages."""
        patience = self._config.patience
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(patience.connect_s):
                socket = await stack.enter_async_context(self._dial())
                meter = LinkMeter(self.monitor, self._clock)
                connection = LinkConnection(
                    socket,
                    patience,
                    meter,
                    self._connected.clear,
                    self._slowness,
                    self._clock,
                    self._randomness,
                    self._coding,
                )
                stack.push_async_callback(connection.close_socket)
                wants_lanes = self._config.most_lanes > 0 and self._lane_trust.allows(self._clock())
                hello = self._config.hello(self.taps != 0, wants_lanes, self._names_middle)
                welcome = await connection.handshake(hello, self.taps)
            self._up(connection, welcome)
            if welcome.lane_key:
                connection.use_lanes(self._lane_plan(socket, welcome), self._on_broken_lane)
            await connection.run()

    async def _refused(self, fault: Fault, is_second: bool) -> Refusal:
        """Why it ended; a cloud of an earlier release knows the whole model's fingerprint alone."""
        refusal, has_named_middle = of_fault(fault, self._where), self._names_middle
        if is_second or fault.code is not FaultCode.FINGERPRINT_MISMATCH:
            self._names_middle = True
            return refusal
        if not self._config.model.middle_fingerprint:
            return refusal
        self._names_middle = not has_named_middle
        again = await self._connect_and_carry(is_second=True)
        # Refused under both names: that of the middle says more.
        return refusal if has_named_middle and self._names_middle else again

    async def _told(self, error: Exception) -> Refusal:
        """The words for an error; a cloud that wants TLS only breaks off, so it is asked once."""
        refusal = of_error(error, self._where)
        if self._lost_s is not None or self.status.is_connected or not _is_broken_off(error):
            return refusal
        if self._asked_for_tls != refusal:
            self._asked_for_tls = refusal
            self._wants_tls = await self._dialer.finds_tls()
        return speaks_tls(self._where) if self._wants_tls else refusal

    def _up(self, connection: LinkConnection, welcome: Welcome) -> None:
        """Sessions may be opened from here on."""
        frame_tokens = min(welcome.max_frame_tokens, MAX_FRAME_TOKENS)
        self.limits = LinkLimits(
            max_context_tokens=welcome.max_context_tokens,
            max_frame_tokens=max_prefill_rows(frame_tokens, welcome.credit_limit_tokens),
            session_ttl_s=welcome.session_ttl_s,
        )
        self._connection = connection
        self.num_connections += 1
        self.status = LinkStatus(True)
        self.mismatched.clear()
        self._connected.set()
        self._tried.set()
        if self.taps and not welcome.codecs >> Codec.TAPPED & 1:
            _log.warning("%s", _NO_TAPS)
        self._lossy_codecs = connection.coding.rounding.named
        if connection.coding.rounding != self._config.rounding:
            _log.warning("%s", _NO_ROUNDING)
        rows = welcome.dtype.name + _told_codecs(connection)
        _log.info("connected to the cloud at %s, rows in %s", self._where, rows)

    def _lane_plan(self, socket: Socket, welcome: Welcome) -> LanePlan:
        """How further sockets of a connection are made, and how many."""
        row_bytes = self._config.model.hidden_size * ITEM_BYTES[welcome.dtype]

        def size() -> LinkSize:
            known = self.monitor.link
            # A busy cloud's answers come late, and a system's acknowledgements may.
            trips_s = [s for s in (known.delay_s, socket.window().round_trip_s) if s]
            return LinkSize(min(trips_s, default=None), known.uplink_bytes_per_s)

        return LanePlan(
            dial=self._dial,
            join=Join(welcome.version, welcome.lane_key, self._config.secret),
            most=self._config.most_lanes,
            is_fixed=self._config.connections is not None,
            frame_bytes=min(welcome.max_frame_tokens, MAX_FRAME_TOKENS) * row_bytes,
            size=size,
            why=lambda error: of_error(error, self._where).reason,
        )

    def _on_broken_lane(self) -> None:
        self._lane_trust.broke(self._clock())
        _log.warning("a further connection to the cloud broke: for a while there is one alone")

    def _fail_sessions(self, is_left: bool = False) -> None:
        """Whoever waits for the lost connection learns why it was lost."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.fail_sessions(lambda: self._unavailable(is_left))

    def _unavailable(self, is_left: bool = False) -> LinkLostError:
        kind = CloudLeftError if is_left else LinkLostError
        return kind(self.status.reason or "", self.status.retry_after_s)

    def _delay_s(self, refusal: Refusal, attempt: int) -> float:
        patience = self._config.patience
        has_lasted = self._lost_s is None or (
            self._clock() - self._lost_s >= patience.permanent_after_s
        )
        if refusal.is_permanent and has_lasted:
            return patience.refused_retry_s
        draw = self._randomness.random()
        delay_s = retry_delay_s(attempt, draw, patience.min_retry_s, patience.max_retry_s)
        return max(delay_s, min(refusal.retry_after_s, patience.refused_retry_s))


def _is_broken_off(error: Exception) -> bool:
    """Whether an opening ended in a way that one without TLS may end at a cloud that wants it."""
    match error:
        case aiohttp.ClientConnectorError():
            return False
        case aiohttp.ClientResponseError():
            return error.status in (0, 400)
        case _:
            return isinstance(error, OSError | aiohttp.ClientConnectionError)


def _told_codecs(connection: LinkConnection) -> str:
    """What rows are in besides the number format, for the log."""
    codec, rounded = connection.coding.codec, connection.coding.rounding.named
    coded = "" if codec is Codec.RAW else f", {codec.name} where that is sooner"
    each = ", ".join(f"{way} in {name}" for way, name in rounded.items())
    return coded + (f", LOSSY: {each}" if each else "")
