"""The cloud's core against hostile devices: bytes are their frames, the engine's luck and time.

They say what they like: positions beyond all sense, epochs back and forth, keys of others, forks of
what is not there, rows without credit, pieces of frames over further sockets. Whatever came, the
accounting is that of the live sessions, the strict engine meets no gap, and at the end all is zero.
"""

from unittest.mock import patch

from cloud_server.core import core as core_module
from cloud_server.core.actions import (
    Action,
    CloseConnection,
    ConnectionId,
    Identity,
    Send,
    Step,
    Unpack,
)
from cloud_server.core.config import CoreConfig
from cloud_server.core.core import CloudCore
from cloud_server.core.names.quota import Quota
from cloud_server.core.names.tokens import Entry, Name, Tokens, digest_of
from tests.fuzz.draws import Draws
from tests.fuzz.engine import LengthEngine
from tests.fuzz.speech import (
    CODECS,
    FINGERPRINT,
    HIDDEN,
    LANE_KEYS,
    MAX_CONTEXT,
    SECRET,
    TABLES,
    Peer,
    Speech,
)
from wire.codec import encode
from wire.errors import RemoteProtocolError
from wire.messages import (
    NO_SESSION,
    Codec,
    Dtype,
    Fault,
    Hello,
)

WINDOW = 80
BLOCK = 3
HOST_TOKENS = 40
LEAST_ASIDE_BYTES = 24
"""In pieces frames of more than this are made RAW elsewhere: those of a real model are longer."""
MAX_TURNS = 400
UNIX_S = 1e9
ALICE, BOB = Name("alice"), Name("bob")
TOKENS = (b"alice's token", b"bob's token")
NAMES = (
    Tokens()
    .added(Entry(ALICE, digest_of(TOKENS[0]), 0.0, Quota(1, 2, 50, None, 90)))
    .added(Entry(BOB, digest_of(TOKENS[1]), 0.0, Quota(rows_per_s=3), UNIX_S + 150))
)
"""One with every quota but a rate, and one with a rate whose time comes to an end."""
NOBODY = Tokens()


class CoreRun:
    """One core, from its start to its end."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        flags = draws.number(0, 255)
        self._num_in_flight = 1 + (flags & 3)
        self._now = 0.0
        self._config = CoreConfig(
            fingerprint=FINGERPRINT,
            first_layer=5,
            num_layers=8,
            hidden_size=HIDDEN,
            dtype=Dtype.FP32,
            capacity_tokens=99,
            max_context_tokens=MAX_CONTEXT,
            block_tokens=BLOCK,
            host_tokens=HOST_TOKENS if flags & 4 else 0,
            credential=SECRET,
            max_sessions=5,
            max_connections=4,
            max_lanes=4 if flags & 8 else 0,
            max_frame_tokens=40,
            credit_window_tokens=WINDOW,
            step_budget_tokens=64,
            steps_in_flight=self._num_in_flight,
            verify_tokens=4,
            takes_taps=bool(flags & 16),
            takes_traces=bool(flags & 64),
            codecs=CODECS if flags & 32 else 1 << Codec.RAW,
            tables=TABLES if flags & 32 else b"",
        )
        self._core = CloudCore(self._config)
        self._tokens = NAMES if flags & 128 else None
        self._engine = LengthEngine(99, BLOCK, self._config.rows.row_bytes)
        self._steps: list[Step] = []
        self._unpacking: list[Unpack] = []
        self._peers: dict[ConnectionId, Peer] = {}
        self._speech = Speech(draws, self._config, self._peers)
        self._num_connected = 0
        self._is_lost = False
        self.num_frames = 0
        if self._tokens is not None:
            self._do(self._core.admit(self._tokens, UNIX_S, 0.0))

    def run(self) -> None:
        """Do what the bytes say, and then let everybody go."""
        for _ in range(2):
            self._connect(greets=True)
        for turn in range(MAX_TURNS):
            if self._draws.is_empty:
                break
            self._turn()
            if turn % 16 == 0:
                self._check()
        self._end()

    def _turn(self) -> None:
        what = self._draws.number(0, 31)
        peer = self._draws.pick(list(self._peers)) if self._peers else None
        if peer is None or what == 0:
            if len(self._peers) < 6:
                self._connect(greets=not self._draws.one_in(4))
        elif what == 1:
            self._do(self._core.disconnect(peer, self._now))
            del self._peers[peer]
        elif what <= 22:
            self._say(peer, what)
        elif what <= 29:
            self._engine_turn(what)
        elif what == 30:
            self._unpacked()
        else:
            self._pass_time()

    def _connect(self, greets: bool) -> None:
        self._num_connected += 1
        number = ConnectionId(self._num_connected)
        self._peers[number] = peer = Peer(greets)
        identity = Identity(self._draws.pick(("house", "office")))
        lane_key = LANE_KEYS[self._num_connected % 2] if self._config.max_lanes else b""
        peer.own_key = lane_key if greets else b""
        self._do(self._core.connect(number, self._now, identity, lane_key))
        if greets:
            codecs = self._config.rows.codecs
            shown = SECRET if self._tokens is None else self._draws.pick((SECRET, *TOKENS))
            hello = Hello(1, 1, FINGERPRINT, 5, 8, HIDDEN, 0b111, codecs, shown)
            self._receive(number, encode(hello))

    def _say(self, number: ConnectionId, what: int) -> None:
        frame = self._speech.frame(self._peers[number], what)
        if frame is not None:
            self._receive(number, frame)

    def _receive(self, number: ConnectionId, frame: bytes) -> None:
        self.num_frames += 1
        unpacked = None
        call = self._core.unpacking(number, frame)
        if call is not None and self._draws.flag():
            try:
                unpacked = call()
            except RemoteProtocolError as error:
                unpacked = error
        self._do(self._core.receive_frame(number, frame, self._now, unpacked))

    # What else happens

    def _engine_turn(self, what: int) -> None:
        if what <= 26:
            if len(self._steps) < self._num_in_flight:
                step = self._core.next_step(self._now)
                if step is not None:
                    self._steps.append(step)
        elif what <= 28:
            self._finish_step(is_refused=self._draws.one_in(8))
        elif self._is_lost:
            self._is_lost = False
            self._core.engine_ready()
        elif self._draws.one_in(4):
            self._is_lost = True
            self._steps.clear()
            self._engine = LengthEngine(99, BLOCK, self._config.rows.row_bytes)
            self._do(self._core.engine_lost("lost", 7.0))
        elif self._steps:
            # It raised before it did anything of the step.
            self._engine.has_failed = True
            self._do(self._core.step_failed(self._steps.pop(0), "out of order", self._now))

    def _finish_step(self, is_refused: bool = False) -> None:
        if self._steps:
            step = self._steps.pop(0)
            outcome = self._engine.run(step, is_refused)
            self._do(self._core.step_done(step, outcome, self._now))

    def _unpacked(self) -> None:
        if not self._unpacking:
            return
        action = self._unpacking.pop(0)
        try:
            unpacked = action.call()
        except RemoteProtocolError as error:
            self._do(self._core.unpacked(action.connection, error))
        else:
            self._do(self._core.unpacked(action.connection, unpacked))

    def _pass_time(self) -> None:
        self._now += self._draws.number(0, 40)
        if self._draws.one_in(64):
            self._core.drain()
        self._do(self._core.tick(self._now))
        if self._tokens is not None:
            if self._draws.one_in(4):
                self._tokens = self._draws.pick((NAMES, NAMES.revoked(ALICE, 1.0), NOBODY))
            self._do(self._core.admit(self._tokens, UNIX_S + self._now, self._now))

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(connection, message):
                    encode(message)
                    assert connection in self._peers, "nothing is said to who is gone"
                    if isinstance(message, Fault) and message.session == NO_SESSION:
                        del self._peers[connection]
                    elif isinstance(message, Fault):
                        self._peers[connection].sessions.pop(message.session, None)
                case Unpack():
                    self._unpacking.append(action)
                case CloseConnection(connection):
                    self._peers.pop(connection, None)

    # What must hold

    def _check(self) -> None:
        figures = self._core.figures()
        table = list(self._core._sessions.table)
        charged = sum(-(-each.max_tokens // BLOCK) * BLOCK for each in table if _is_here(each))
        assert figures.num_sessions == len(table) <= self._config.max_sessions
        assert 0 <= charged <= figures.reserved_tokens <= figures.capacity_tokens
        assert figures.num_connections <= self._config.max_connections
        assert figures.num_lanes <= self._config.max_lanes
        assert 0 <= figures.host_tokens <= HOST_TOKENS
        queued = sum(session.num_queued_tokens for session in table)
        assert figures.queued_tokens == queued
        for link in self._core._links:
            assert 0 <= link.wire._credit.num_available <= WINDOW

    def _end(self) -> None:
        """Everybody leaves, and nothing is left: no session, no row, no sequence, no copy."""
        while self._unpacking:
            self._unpacked()
        if self._draws.flag():
            self._do(self._core.shut_down(self._now))
        for number in list(self._peers):
            self._do(self._core.disconnect(number, self._now))
        if self._is_lost:
            self._core.engine_ready()
        for _ in range(2):
            self._run_dry()
            self._now += 200.0
            self._do(self._core.tick(self._now))
        self._run_dry()
        figures = self._core.figures()
        assert (figures.num_sessions, figures.num_connections, figures.num_lanes) == (0, 0, 0)
        assert (figures.reserved_tokens, figures.queued_tokens, figures.host_tokens) == (0, 0, 0)
        assert self._engine.has_failed or not self._engine.lengths, "sequences are released"
        assert self._engine.has_failed or not self._engine.copies, "copies are dropped"

    def _run_dry(self) -> None:
        for _ in range(500):
            while self._steps:
                self._finish_step()
            step = self._core.next_step(self._now)
            if step is None:
                return
            self._steps.append(step)
        raise AssertionError("expected an end of the work")


def _is_here(session: object) -> bool:
    return getattr(session, "home").name == "ENGINE"  # noqa: B009


def check(data: bytes) -> int:
    """One life of a core; how many frames came.

    Raises:
        Exception: something did not hold.
    """
    run = CoreRun(Draws(bytes(data)))
    with patch.object(core_module, "LEAST_ASIDE_BYTES", LEAST_ASIDE_BYTES):
        run.run()
    return run.num_frames


def seeds() -> list[bytes]:
    """Bytes to begin with: there are no better ones than any."""
    return [bytes((place * 37 + number) % 256 for place in range(400)) for number in range(8)]


def mutated(data: bytes) -> bytes:
    """As they are: every byte is a choice."""
    return data
