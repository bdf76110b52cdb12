"""What hostile devices say: mostly what a device would, and now and then what none would."""

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_server.core.actions import ConnectionId
from cloud_server.core.config import CoreConfig
from tests.fuzz.draws import Draws
from wire.codec import encode
from wire.coding.row_codecs import row_codecs
from wire.coding.tables import no_centres
from wire.errors import LocalProtocolError
from wire.messages import (
    NO_SESSION,
    Close,
    Codec,
    Dtype,
    Join,
    Message,
    Open,
    Piece,
    SessionId,
    States,
    Trace,
    Want,
)

HIDDEN = 2
FINGERPRINT = b"\1" * 32
SECRET = b"s"
TABLES = no_centres(HIDDEN).tables
CODECS = 1 << Codec.RAW | 1 << Codec.EXACT | 1 << Codec.INT8
KEYS = [bytes([number]) * 16 for number in range(6)]
MAX_CONTEXT = 60
_ROWS = CoreConfig(
    fingerprint=FINGERPRINT,
    first_layer=5,
    num_layers=8,
    hidden_size=HIDDEN,
    dtype=Dtype.FP32,
    capacity_tokens=1,
    max_context_tokens=1,
    codecs=CODECS,
).rows
CODERS = row_codecs(_ROWS, TABLES).up
LANE_KEYS = KEYS[:2]
ROW_BYTES = 4 * HIDDEN


@dataclass
class Told:
    """A session as its device would know it."""

    max_tokens: int
    end: int = 0
    epoch: int = 0


class Peer:
    """A socket, as whoever holds it sees it."""

    def __init__(self, is_greeted: bool) -> None:
        self.is_greeted = is_greeted
        self.last_session = 0
        self.num_in_pieces = 0
        self.sessions: dict[SessionId, Told] = {}
        self.own_key = b""
        """Under which others join it."""
        self.lane_key = b""
        """Under which it has joined another."""


class Speech:
    """What each of the peers says next."""

    def __init__(
        self, draws: Draws, config: CoreConfig, peers: Mapping[ConnectionId, Peer]
    ) -> None:
        self._draws = draws
        self._config = config
        self._peers = peers

    def frame(self, peer: Peer, what: int) -> bytes | None:
        """A frame of this kind, 2 to 22; None where none can be made of the bytes."""
        draws = self._draws
        if what == 22 and draws.one_in(4):
            return draws.noise(60)
        message = self._wild(peer) if what == 21 else self._message(peer, what)
        try:
            frame = encode(message)
        except LocalProtocolError:
            return None
        return draws.mutated(frame) if what == 20 and draws.one_in(4) else frame

    def _message(self, peer: Peer, what: int) -> Message:
        draws = self._draws
        if not peer.is_greeted:
            # A socket that comes without a Hello is to be a lane.
            peer.is_greeted, peer.lane_key = True, draws.pick(LANE_KEYS)
            return Join(1, peer.lane_key, b"wrong" if draws.one_in(8) else SECRET)
        if peer.lane_key:
            return self._piece(peer)
        if what <= 5 or not peer.sessions:
            return self._open(peer)
        if what == 7 and draws.one_in(4) and self._config.takes_traces:
            return Trace(draws.pick(list(peer.sessions)), KEYS[1])
        if what == 6:
            over = draws.pick(list(peer.sessions))
            del peer.sessions[over]
            return Close(over)
        return self._states(peer)

    def _wild(self, peer: Peer) -> Message:
        draws = self._draws
        number = SessionId(draws.number(1, max(1, peer.last_session + 1)))
        match draws.number(0, 5):
            case 0:
                other = SessionId(draws.number(0, peer.last_session + 1))
                num_forked = draws.number(0, MAX_CONTEXT) if other else 0
                taps = 1 << draws.number(0, 15)
                return Open(number, draws.pick(KEYS), draws.number(1, 63), other, num_forked, taps)
            case 1:
                return Close(number)
            case 2 if draws.flag():
                return Trace(number, draws.pick(KEYS))
            case 2:
                return Join(1, draws.pick(KEYS), draws.pick((SECRET, b"wrong")))
            case 3:
                return Piece(draws.number(0, 3), draws.number(0, 99), draws.number(0, 99), b"part")
            case _:
                position = draws.pick((2**32 - 50, 64, 7, 0))
                num_rows = draws.number(1, 41)
                payload = draws.mutated(bytes(num_rows * ROW_BYTES))
                codec, want = draws.pick(list(Codec)), draws.pick(list(Want))
                epoch = draws.number(0, 3)
                return States(number, epoch, position, num_rows, Dtype.FP32, codec, want, payload)

    def _open(self, peer: Peer) -> Open:
        draws = self._draws
        peer.last_session += 1
        number = SessionId(peer.last_session)
        key, most = draws.pick(KEYS), draws.pick((8, 20, 20, 40, MAX_CONTEXT))
        fork = draws.pick(list(peer.sessions)) if peer.sessions and draws.one_in(4) else NO_SESSION
        num_forked = draws.number(0, peer.sessions[fork].end) if fork else 0
        most = max(most, num_forked)
        taps = 1 << draws.number(6, 12) if self._config.takes_taps and draws.one_in(4) else 0
        peer.sessions[number] = Told(most, num_forked)
        return Open(number, key, most, fork, num_forked, taps)

    def _states(self, peer: Peer) -> States:
        draws = self._draws
        number = draws.pick(list(peer.sessions))
        told = peer.sessions[number]
        if draws.one_in(4):
            told.epoch += 1
        back = draws.pick((0, 0, 0, 1, 4, 60))
        position = min(max(0, told.end - back), told.max_tokens - 1)
        num_rows = min(draws.pick((1, 2, 5, 12, 30)), told.max_tokens - position)
        told.end = position + num_rows
        codec, payload = Codec.RAW, bytes(num_rows * ROW_BYTES)
        if self._config.tables and draws.flag():
            wanted = draws.pick((Codec.EXACT, Codec.INT8))
            coded = CODERS[wanted].encode(payload, num_rows)
            if coded is not None:
                codec, payload = wanted, coded if draws.number(0, 15) else draws.mutated(coded)
        want = draws.pick(list(Want))
        return States(number, told.epoch, position, num_rows, Dtype.FP32, codec, want, payload)

    def _piece(self, lane: Peer) -> Piece:
        """A part of a frame of the lane's connection, or of one that is none."""
        draws = self._draws
        owner = next((p for p in self._peers.values() if p.own_key == lane.lane_key), lane)
        frame = draws.noise(60)
        if owner.sessions:
            frame = encode(self._states(owner))
        sequence = owner.num_in_pieces
        owner.num_in_pieces += 1
        if draws.one_in(8):
            sequence += draws.pick((1, 2, 2**31))
        begin = draws.number(0, len(frame)) if draws.one_in(8) else 0
        return Piece(sequence, max(1, len(frame)), begin, frame[begin:] or b"part")
