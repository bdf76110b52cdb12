"""The core and coded rows (W40): made RAW after all checks, answered in kind, refused in order."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from cloud_server.core.actions import (
    Action,
    ConnectionId,
    Identity,
    Send,
    StepOutcome,
    Unpack,
)
from cloud_server.core.config import CoreConfig
from cloud_server.core.core import CloudCore
from wire.codec import encode
from wire.coding.lossy import LOSSY_ABILITIES, Kept, Rounding
from wire.coding.row_codecs import EXACT_CODECS, RowCodecs, row_codecs
from wire.coding.tables import Centres, write_sections
from wire.errors import FaultCode, RemoteProtocolError
from wire.lanes import Cutter
from wire.limits import RowLimits
from wire.messages import (
    Ability,
    Codec,
    Credit,
    Dtype,
    Fault,
    Hello,
    Join,
    Message,
    Open,
    Reply,
    SessionId,
    States,
    Want,
    Welcome,
)

HIDDEN = 256
CODECS = 1 << Codec.RAW | EXACT_CODECS
CENTRES = np.random.default_rng(0).integers(0, 4, HIDDEN, np.uint8)
CONFIG = CoreConfig(
    fingerprint=b"f" * 32,
    first_layer=1,
    num_layers=1,
    hidden_size=HIDDEN,
    dtype=Dtype.BF16,
    capacity_tokens=64,
    max_context_tokens=64,
    max_frame_tokens=8,
    credit_window_tokens=16,
    takes_taps=True,
    codecs=CODECS,
    tables=Centres(CENTRES, CENTRES).tables,
)
SESSION = SessionId(1)


def rows(num_rows: int, seed: int = 0) -> bytes:
    numbers = np.random.default_rng(seed).standard_normal((num_rows, HIDDEN)) * 2.0**CENTRES
    return numbers.astype(ml_dtypes.bfloat16).tobytes()


class Pair:
    """A core and one device of it, which speaks so many codecs."""

    def __init__(
        self,
        codecs: int = CODECS,
        taps: int = 0,
        config: CoreConfig = CONFIG,
        lane_key: bytes = b"",
        max_tokens: int = 64,
    ) -> None:
        self.core = CloudCore(config)
        self.number = ConnectionId(1)
        self.sent: list[Send] = []
        self._take(self.core.connect(self.number, 0.0, Identity("here"), lane_key))
        hello = Hello(1, 1, b"f" * 32, 1, config.num_layers, HIDDEN, 0b111, codecs, b"")
        self.send(hello)
        (welcome,) = self.messages()
        assert isinstance(welcome, Welcome)
        self.welcome = welcome
        limits = RowLimits(HIDDEN, welcome.dtype, welcome.max_frame_tokens, welcome.codecs)
        self.codecs: RowCodecs = row_codecs(limits, welcome.tables)
        self.send(Open(SESSION, b"k" * 16, max_tokens, taps=taps))
        self.sent.clear()

    def send(self, message: Message, unpacked: object = None) -> None:
        frame = encode(message)
        self._take(self.core.receive_frame(self.number, frame, 0.0, unpacked))

    def messages(self) -> list[Message]:
        return [each.message for each in self.sent]

    def run(self, answer: bytes) -> bytes:
        """One step with one item; the rows that the engine was given."""
        step = self.core.next_step(0.0)
        assert step is not None
        (item,) = step.items
        self.sent.clear()
        self._take(self.core.step_done(step, StepOutcome((answer,), 0.01), 0.0))
        return bytes(item.payload)

    def _take(self, actions: list) -> None:
        self.sent += [action for action in actions if isinstance(action, Send)]


def coded(pair: Pair, raw: bytes, codec: Codec, want: Want = Want.LAST) -> States:
    num_rows = len(raw) // (2 * HIDDEN)
    payload = pair.codecs.up[codec].encode(raw, num_rows)
    assert payload is not None
    return States(SESSION, 0, 0, num_rows, Dtype.BF16, codec, want, payload)


def reply_of(pair: Pair) -> tuple[Reply, Codec]:
    (sent,) = [each for each in pair.sent if isinstance(each.message, Reply)]
    return sent.message, sent.codec


@pytest.mark.parametrize("codec", [Codec.EXACT, Codec.PADDED])
def test_coded_rows_reach_the_engine_as_they_were_and_are_answered_in_kind(codec):
    pair = Pair()
    raw, answer = rows(5), rows(1, seed=1)
    pair.send(coded(pair, raw, codec))
    assert pair.run(answer) == raw
    reply, answered_in = reply_of(pair)
    assert answered_in is codec
    sent = pair.core.codecs.coded_reply(reply, answered_in)
    assert sent.codec is codec
    assert len(sent.payload) < len(answer)
    again = pair.codecs.raw_reply(sent, 0)
    assert (again.codec, bytes(again.payload)) == (Codec.RAW, answer)


def test_raw_rows_are_answered_raw():
    pair = Pair()
    pair.send(States(SESSION, 0, 0, 2, Dtype.BF16, Codec.RAW, Want.LAST, rows(2)))
    assert pair.run(rows(1)) == rows(2)
    assert reply_of(pair)[1] is Codec.RAW


def test_an_answer_without_rows_is_raw():
    pair = Pair()
    pair.send(coded(pair, rows(2), Codec.EXACT, Want.NONE))
    pair.run(b"")
    reply, codec = reply_of(pair)
    assert pair.core.codecs.coded_reply(reply, codec) is reply


def test_rows_with_taps_are_coded_with_them():
    pair = Pair(codecs=CODECS | 1 << Codec.TAPPED, taps=0b1100, config=_deep())
    answer = rows(6)  # two deep rows, two taps of each
    pair.send(coded(pair, rows(2), Codec.EXACT, Want.ALL))
    pair.run(answer)
    reply, codec = reply_of(pair)
    assert reply.codec is Codec.TAPPED
    sent = pair.core.codecs.coded_reply(reply, codec)
    assert sent.codec is Codec.EXACT
    again = pair.codecs.raw_reply(sent, 2)
    assert (again.codec, bytes(again.payload)) == (Codec.TAPPED, answer)


def _deep() -> CoreConfig:
    return dataclasses.replace(CONFIG, num_layers=6)


def test_rows_that_cannot_be_read_end_their_session_and_give_their_credit_back():
    pair = Pair()
    broken = States(SESSION, 0, 0, 8, Dtype.BF16, Codec.EXACT, Want.LAST, b"\7" * 3000)
    pair.send(broken)
    faults = [message for message in pair.messages() if isinstance(message, Fault)]
    returned = [message for message in pair.messages() if isinstance(message, Credit)]
    assert [(fault.code, fault.session) for fault in faults] == [(FaultCode.BAD_FRAME, SESSION)]
    assert [credit.limit_tokens for credit in returned] == [24]
    assert not pair.core.has_work


def test_a_codec_that_the_device_did_not_offer_is_refused():
    pair = Pair(codecs=1 << Codec.RAW)
    assert pair.welcome.codecs == 1 << Codec.RAW
    assert pair.welcome.tables == b""
    payload = Pair().codecs.up[Codec.EXACT].encode(rows(2), 2)
    assert payload is not None
    pair.send(States(SESSION, 0, 0, 2, Dtype.BF16, Codec.EXACT, Want.LAST, payload))
    (fault,) = pair.messages()
    assert isinstance(fault, Fault)
    assert (fault.code, fault.session) == (FaultCode.BAD_FRAME, 0)


def test_the_welcome_brings_what_the_codecs_need():
    pair = Pair()
    assert pair.welcome.codecs == CODECS
    assert pair.welcome.tables == CONFIG.tables


@pytest.mark.parametrize("codec", [Codec.EXACT, Codec.PADDED])
def test_a_coded_payload_longer_than_raw_rows_is_refused(codec):
    pair = Pair()
    payload = bytes(2 * 2 * HIDDEN + 1)
    pair.send(States(SESSION, 0, 0, 2, Dtype.BF16, codec, Want.LAST, payload))
    (fault,) = pair.messages()
    assert isinstance(fault, Fault)
    assert (fault.code, fault.session) == (FaultCode.SHAPE_MISMATCH, 0)


def test_long_frames_may_be_read_elsewhere_before_they_are_taken():
    pair = Pair()
    states = coded(pair, rows(5), Codec.EXACT)
    unpack = pair.core.unpacking(pair.number, encode(states))
    assert unpack is not None
    pair.send(states, unpack())
    assert pair.run(rows(1)) == rows(5)


def test_what_went_wrong_elsewhere_ends_the_session():
    pair = Pair()
    states = coded(pair, rows(5), Codec.EXACT)
    pair.send(states, RemoteProtocolError(FaultCode.BAD_FRAME, "expected rows"))
    (fault,) = [message for message in pair.messages() if isinstance(message, Fault)]
    assert (fault.code, fault.session) == (FaultCode.BAD_FRAME, SESSION)


def test_nothing_is_read_for_who_has_no_right_to_it():
    pair = Pair()
    states = coded(pair, rows(8), Codec.EXACT)
    frame = encode(states)
    stranger = ConnectionId(2)
    pair.core.connect(stranger, 0.0, Identity("there"))
    raw = States(SESSION, 0, 0, 2, Dtype.BF16, Codec.RAW, Want.LAST, rows(2))
    unknown = States(SessionId(9), 0, 0, 8, Dtype.BF16, Codec.EXACT, Want.LAST, states.payload)
    assert pair.core.unpacking(stranger, frame) is None
    assert pair.core.unpacking(ConnectionId(3), frame) is None
    assert pair.core.unpacking(pair.number, frame[:10]) is None
    assert pair.core.unpacking(pair.number, b"") is None
    assert pair.core.unpacking(pair.number, encode(raw)) is None
    assert pair.core.unpacking(pair.number, encode(unknown)) is None
    assert pair.core.unpacking(pair.number, frame) is not None
    pair.send(states)
    pair.send(states)  # the credit is used up
    assert pair.core.unpacking(pair.number, frame) is None


WIDE = dataclasses.replace(CONFIG, max_frame_tokens=200, credit_window_tokens=400, max_lanes=2)
LANE_KEY = b"l" * 16


def laned_pair() -> tuple[Pair, ConnectionId]:
    """A device with one further socket, whose frames may be long."""
    config = dataclasses.replace(WIDE, capacity_tokens=400, max_context_tokens=400)
    pair = Pair(CODECS | 1 << Ability.LANES, config=config, lane_key=LANE_KEY, max_tokens=400)
    lane = ConnectionId(2)
    pair.core.connect(lane, 0.0, Identity("here"))
    pair.core.receive_frame(lane, encode(Join(1, LANE_KEY, b"")), 0.0)
    return pair, lane


def in_pieces(pair: Pair, lane: ConnectionId, sequence: int, states: States) -> list[Action]:
    cutter, actions = Cutter(sequence, encode(states)), []
    while cutter.num_left:
        actions += pair.core.receive_frame(lane, encode(cutter.cut(60_000)), 1.0)
    return actions


def test_long_frames_in_pieces_are_read_elsewhere_and_those_behind_them_wait():
    pair, lane = laned_pair()
    first = coded(pair, rows(198), Codec.EXACT)
    second = dataclasses.replace(coded(pair, rows(3, seed=2), Codec.EXACT), position=198)
    (unpack,) = in_pieces(pair, lane, 0, first)
    assert isinstance(unpack, Unpack)
    assert in_pieces(pair, lane, 1, second) == []
    assert not pair.core.has_work
    pair.core.unpacked(unpack.connection, unpack.call())
    assert pair.core.figures().queued_tokens == 201
    taken = b""
    while (step := pair.core.next_step(3.0)) is not None:
        taken += b"".join(bytes(item.payload) for item in step.items)
        answers = tuple(rows(item.num_wanted_rows) for item in step.items)
        pair._take(pair.core.step_done(step, StepOutcome(answers, 0.01), 3.0))
    assert taken == rows(198) + rows(3, seed=2)
    replies = [message for message in pair.messages() if isinstance(message, Reply)]
    assert [reply.position for reply in replies] == [0, 198]
    assert replies[0].queue_s == 2.0  # reading counts as waiting


def test_what_went_wrong_elsewhere_with_a_frame_in_pieces_ends_its_session():
    pair, lane = laned_pair()
    broken = dataclasses.replace(coded(pair, rows(198), Codec.EXACT), payload=b"\7" * 80_000)
    (unpack,) = in_pieces(pair, lane, 0, broken)
    assert isinstance(unpack, Unpack)
    with pytest.raises(RemoteProtocolError) as raised:
        unpack.call()
    pair._take(pair.core.unpacked(unpack.connection, raised.value))
    (fault,) = [message for message in pair.messages() if isinstance(message, Fault)]
    assert (fault.code, fault.session) == (FaultCode.BAD_FRAME, SESSION)


def test_what_was_read_for_a_device_that_left_meanwhile_is_forgotten():
    pair, lane = laned_pair()
    (unpack,) = in_pieces(pair, lane, 0, coded(pair, rows(198), Codec.EXACT))
    assert isinstance(unpack, Unpack)
    pair.core.disconnect(pair.number, 1.0)
    assert pair.core.unpacked(unpack.connection, unpack.call()) == []
    assert not pair.core.has_work


def test_what_was_saved_is_counted():
    pair = Pair()
    states = coded(pair, rows(5), Codec.EXACT)
    pair.send(states)
    assert pair.core.figures().saved_bytes == len(rows(5)) - len(states.payload)


LOSSY = dataclasses.replace(
    CONFIG,
    codecs=CODECS | LOSSY_ABILITIES,
    tables=CONFIG.tables + write_sections(Kept((1,), (2, 3)).sections),
)


@pytest.mark.parametrize("codec", [Codec.INT8, Codec.INT6])
def test_rounded_rows_are_answered_exactly_unless_replies_were_asked_for(codec):  # W42, W43
    pair = Pair(CODECS | 1 << codec, config=LOSSY)
    raw, answer = rows(5), rows(1, seed=1)
    pair.send(coded(pair, raw, codec))
    received = pair.run(answer)
    came, sent = (np.frombuffer(each, ml_dtypes.bfloat16) for each in (received, raw))
    assert received != raw
    assert np.allclose(came.astype(float), sent.astype(float), atol=0.06 * np.abs(sent).max())
    assert reply_of(pair)[1] is Codec.EXACT
    assert pair.core.figures().lossy_tokens == 5


@pytest.mark.parametrize("codec", [Codec.INT8, Codec.INT6])
def test_replies_are_rounded_where_the_device_asked(codec):  # W43
    pair = Pair(CODECS | Rounding(down=codec).codecs, config=LOSSY)
    answer = rows(1, seed=1)
    pair.send(coded(pair, rows(2), Codec.EXACT))
    assert pair.run(answer) == rows(2)
    reply, answered_in = reply_of(pair)
    assert answered_in is codec
    sent = pair.core.codecs.coded_reply(reply, answered_in)
    assert sent.codec is codec
    again = np.frombuffer(pair.codecs.raw_reply(sent, 0).payload, ml_dtypes.bfloat16)
    exact = np.frombuffer(answer, ml_dtypes.bfloat16)
    assert np.array_equal(again[[2, 3]], exact[[2, 3]])
    assert not np.array_equal(again, exact)


def test_a_cloud_that_allows_no_lossy_codecs_agrees_to_none():
    pair = Pair(CODECS | LOSSY_ABILITIES)
    assert pair.welcome.codecs & LOSSY_ABILITIES == 0
    payload = Pair(CODECS | LOSSY_ABILITIES, config=LOSSY).codecs.up[Codec.INT8].encode(rows(2), 2)
    assert payload is not None
    pair.send(States(SESSION, 0, 0, 2, Dtype.BF16, Codec.INT8, Want.LAST, payload))
    (fault,) = pair.messages()
    assert isinstance(fault, Fault)
    assert (fault.code, fault.session) == (FaultCode.BAD_FRAME, 0)


def test_rounded_rows_of_another_length_end_their_session():
    pair = Pair(CODECS | LOSSY_ABILITIES, config=LOSSY)
    pair.send(States(SESSION, 0, 0, 2, Dtype.BF16, Codec.INT8, Want.LAST, b"\0" * 100))
    (fault,) = [message for message in pair.messages() if isinstance(message, Fault)]
    assert (fault.code, fault.session) == (FaultCode.BAD_FRAME, SESSION)
