"""What leaves a socket in which order, for any puts and any credit."""

from collections import defaultdict, deque

from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.link.outbox import Outbox, max_prefill_rows
from tests.support.examples import at_most
from wire.credit import CreditGiver, CreditTaker
from wire.messages import NO_SESSION, Close, Codec, Dtype, Open, SessionId, States, Want

KEY = bytes(16)


def frame(session, num_rows, is_verify, position=0, epoch=1):
    return States(
        session=SessionId(session),
        epoch=epoch,
        position=position,
        num_rows=num_rows,
        dtype=Dtype.FP32,
        codec=Codec.RAW,
        want=Want.ALL if is_verify else Want.NONE,
        payload=b"",
    )


def is_verification(item):
    """As `frame` makes them."""
    return isinstance(item, States) and item.want is Want.ALL


def put(outbox, item):
    outbox.put(item, is_verification(item))


def opening(session, fork_of=NO_SESSION):
    return Open(SessionId(session), KEY, 64, SessionId(fork_of), 0)


arrivals = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.booleans(), st.integers(0, 3)),
    max_size=30,
)


@settings(deadline=None)
@given(arrivals=arrivals, window=st.integers(1, 64))
def test_all_goes_in_the_end_each_sessions_in_its_order_and_verifications_first(arrivals, window):
    outbox, giver, taker = Outbox(window), CreditGiver(window), CreditTaker(window)
    most = max_prefill_rows(64, window)
    queued = defaultdict(deque)
    at_cloud = deque()

    def heads():
        return [frames[0] for frames in queued.values() if frames]

    def turn():
        """Send a frame if one may go, else let the cloud finish one; False if neither."""
        sent = outbox.next(taker.num_available)
        if sent is not None:
            verifications = [head for head in heads() if is_verification(head)]
            assert not verifications or sent is min(verifications, key=put_order)
            assert verifications or sent is min(heads(), key=put_order)
            assert sent is queued[sent.session].popleft()
            taker.send(sent.num_rows)
            giver.receive(sent.num_rows)
            at_cloud.append(sent.num_rows)
        elif at_cloud:
            credit = giver.give_back(at_cloud.popleft())
            if credit is not None:
                taker.receive(credit)
        else:
            return False
        return True

    def put_order(item):
        return item.position

    for position, (session, num_rows, is_verify, num_turns) in enumerate(arrivals):
        item = frame(session, min(num_rows, most), is_verify, position)
        queued[session].append(item)
        put(outbox, item)
        for _ in range(num_turns):
            turn()
    while turn():
        pass
    assert not heads()


class Puts:
    """Draws what a connection may put: sessions are opened, perhaps as forks, used and closed."""

    def __init__(self, data):
        self._data = data
        self._num_opened = 0
        self._live = []
        self._num_put = 0

    def draw(self):
        kinds = ["open", *(["rows", "rows", "rows", "close"] if self._live else [])]
        kind = self._data.draw(st.sampled_from(kinds))
        self._num_put += 1
        if kind == "open":
            self._num_opened += 1
            source = self._data.draw(st.sampled_from([0, *self._live]))
            self._live.append(self._num_opened)
            return opening(self._num_opened, source)
        session = self._data.draw(st.sampled_from(self._live))
        if kind == "close":
            self._live.remove(session)
            return Close(SessionId(session))
        return frame(session, 1, self._data.draw(st.booleans()), self._num_put)


def about(item):
    """The sessions whose order an item belongs to."""
    match item:
        case States():
            return {item.session}
        case Open():
            return {item.session, item.fork_of} - {NO_SESSION}
        case Close():
            return {item.session}


def is_bound(item, other):
    """Whether an item must not overtake another; a copy's source may have rows to send."""
    if isinstance(item, Open) and isinstance(other, States):
        return other.session == item.session
    return bool(about(item) & about(other))


@settings(max_examples=at_most(200), deadline=None)
@given(data=st.data(), num_puts=st.integers(1, 25))
def test_what_is_about_one_session_is_never_overtaken_by_what_was_put_after_it(data, num_puts):
    outbox, puts, waiting = Outbox(16), Puts(data), []

    def take(credit):
        item = outbox.next(credit)
        if item is not None:
            before = waiting[: waiting.index(item)]
            assert not any(is_bound(item, other) for other in before), (item, before)
            waiting.remove(item)
        return item

    for _ in range(num_puts):
        item = puts.draw()
        if isinstance(item, Close):
            waiting[:] = [w for w in waiting if isinstance(w, Open) or item.session not in about(w)]
        waiting.append(item)
        put(outbox, item)
        for _ in range(data.draw(st.integers(0, 2))):
            take(data.draw(st.sampled_from([0, 1, 16])))
    while take(16) is not None:
        pass
    assert not waiting


def test_a_round_waits_for_the_replay_of_its_session_even_without_credit_for_that():
    outbox = Outbox(4096)
    replay, interrupted = frame(1, 82, False), frame(1, 1, True, 82)
    put(outbox, replay)
    assert outbox.next(1060) is None
    put(outbox, interrupted)
    assert outbox.next(1060) is None
    other = frame(2, 4, True)
    put(outbox, other)
    assert outbox.next(1060) is other
    assert [outbox.next(4096), outbox.next(4096)] == [replay, interrupted]


def test_opens_and_closes_go_before_rows_and_cost_no_credit():
    outbox = Outbox(8)
    rows, close = frame(1, 1, True), Close(SessionId(2))
    put(outbox, rows)
    put(outbox, close)
    assert outbox.next(0) is close
    assert outbox.next(0) is None
    assert outbox.next(1) is rows


def test_a_quarter_of_the_window_is_left_to_verifications():
    outbox = Outbox(16)
    chunk, verify = frame(1, 8, False), frame(2, 4, True)
    put(outbox, chunk)
    assert outbox.next(11) is None
    put(outbox, verify)
    assert outbox.next(4) is verify
    assert outbox.next(12) is chunk


def test_a_verification_without_credit_holds_back_the_chunks():
    outbox = Outbox(16)
    put(outbox, frame(1, 1, False))
    put(outbox, frame(2, 9, True))
    assert outbox.next(8) is None


def test_rows_of_a_session_that_is_over_are_forgotten():
    outbox = Outbox(16)
    other = frame(2, 1, False)
    for item in (frame(1, 1, True), frame(1, 1, False), other):
        put(outbox, item)
    put(outbox, Close(SessionId(1)))
    assert outbox.next(16) == Close(SessionId(1))
    assert outbox.next(16) is other
    assert outbox.next(16) is None


@given(
    frames=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 4)), max_size=12),
    epoch=st.integers(1, 5),
)
def test_rows_of_older_epochs_of_one_session_are_forgotten_and_counted(frames, epoch):
    outbox = Outbox(1000)
    put_in = [frame(session, 1, True, place, old) for place, (session, old) in enumerate(frames)]
    for each in put_in:
        put(outbox, each)
    left = [each for each in put_in if each.session == 2 or each.epoch >= epoch]
    assert outbox.discard_older(SessionId(1), epoch) == len(put_in) - len(left)
    assert [outbox.next(1000) for _ in left] == left
    assert outbox.next(1000) is None
