from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.outbox import Outbox, RowsFrame, max_prefill_rows
from wire.credit import CreditGiver, CreditTaker
from wire.messages import Close, Codec, Dtype, SessionId, States, Want


def frame(session, num_rows, is_verify, position=0):
    place = (SessionId(session), 1, position, num_rows)
    return RowsFrame(States(*place, Dtype.FP32, Codec.RAW, Want.ALL, b""), is_verify)


arrivals = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.booleans(), st.integers(0, 3)),
    max_size=30,
)


@settings(deadline=None)
@given(arrivals=arrivals, window=st.integers(1, 64))
def test_everything_goes_in_the_end_within_credit_and_in_order_of_its_kind(arrivals, window):
    outbox, giver, taker = Outbox(window), CreditGiver(window), CreditTaker(window)
    most = max_prefill_rows(64, window)
    queued = {True: deque(), False: deque()}
    at_cloud = deque()

    def turn():
        """Send a frame if one may go, else let the cloud finish one; False if neither."""
        sent = outbox.next(taker.num_available)
        if sent is not None:
            assert sent is queued[sent.is_verify].popleft()
            assert sent.is_verify or not queued[True]
            taker.send(sent.states.num_rows)
            giver.receive(sent.states.num_rows)
            at_cloud.append(sent.states.num_rows)
        elif at_cloud:
            credit = giver.give_back(at_cloud.popleft())
            if credit is not None:
                taker.receive(credit)
        else:
            return False
        return True

    for position, (session, num_rows, is_verify, num_turns) in enumerate(arrivals):
        item = frame(session, min(num_rows, most), is_verify, position)
        queued[is_verify].append(item)
        outbox.put(item)
        for _ in range(num_turns):
            turn()
    while turn():
        pass
    assert not queued[True]
    assert not queued[False]


def test_opens_and_closes_go_before_rows_and_cost_no_credit():
    outbox = Outbox(8)
    rows, close = frame(1, 1, True), Close(SessionId(2))
    outbox.put(rows)
    outbox.put(close)
    assert outbox.next(0) is close
    assert outbox.next(0) is None
    assert outbox.next(1) is rows


def test_a_quarter_of_the_window_is_left_to_verifications():
    outbox = Outbox(16)
    chunk, verify = frame(1, 8, False), frame(2, 4, True)
    outbox.put(chunk)
    assert outbox.next(11) is None
    outbox.put(verify)
    assert outbox.next(4) is verify
    assert outbox.next(12) is chunk


def test_a_verification_without_credit_holds_back_the_chunks():
    outbox = Outbox(16)
    outbox.put(frame(1, 1, False))
    outbox.put(frame(2, 9, True))
    assert outbox.next(8) is None


def test_rows_of_a_session_that_is_over_are_forgotten():
    outbox = Outbox(16)
    other = frame(2, 1, False)
    for item in (frame(1, 1, True), frame(1, 1, False), other):
        outbox.put(item)
    outbox.discard(SessionId(1))
    assert outbox.next(16) is other
    assert outbox.next(16) is None
