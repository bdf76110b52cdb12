"""The cloud's core among names: keys, quotas, revocation, and what old devices are told."""

from dataclasses import replace

import pytest

from cloud_server.core.actions import ConnectionId
from cloud_server.core.names.quota import NO_QUOTA, Quota
from cloud_server.core.names.tokens import Entry, Name, Tokens, digest_of, tokens_of
from tests.support.cloud_core import (
    CONFIG,
    HELLO,
    Cloud,
    deep_rows,
    one_fault,
    opening,
    rows_of,
    shallow_rows,
    states,
)
from wire.errors import FaultCode
from wire.messages import Ability, Close, Fault, Join, Opened, SessionId, Welcome

A = shallow_rows(*range(100, 112))
KNOWS = replace(HELLO, codecs=1 | 1 << Ability.QUOTAS)
UNIX_S = 1_800_000_000.0
MANY = replace(CONFIG, capacity_tokens=640, max_sessions=40, max_connections=8)


def entry(name: str, quota: Quota = NO_QUOTA, expires_unix_s: float | None = None) -> Entry:
    return Entry(Name(name), digest_of(f"token of {name}"), 0.0, quota, expires_unix_s)


class Named(Cloud):
    """A cloud with names; time of the world begins at `UNIX_S`."""

    def __init__(self, *entries: Entry, **changes: object) -> None:
        super().__init__(replace(MANY, **changes))  # type: ignore[arg-type]
        self._began_s = self.now
        self.tokens = tokens_of(entries)
        self.admit(self.tokens)

    def admit(self, tokens: Tokens) -> None:
        self.tokens = tokens
        unix_s = UNIX_S + self.now - self._began_s
        self._take(self.core.admit(tokens, unix_s, self.now))

    def pass_time(self, seconds: float) -> None:
        super().pass_time(seconds)
        self.admit(self.tokens)

    def come(self, name: str, address: str = "one house", **hello: object) -> ConnectionId:
        """A device of a name."""
        credential = f"token of {name}".encode()
        return self.connect(
            replace(KNOWS, credential=credential, **hello), address, lane_key=b"k" * 16
        )


def test_names_come_with_their_tokens_and_nobody_else() -> None:
    cloud = Named(entry("anna"))
    anna = cloud.come("anna")
    assert isinstance(cloud.received(anna)[0], Welcome)
    for credential, got in ((b"", "none"), (b"a guess", "one that lets nobody in")):
        stranger = cloud.connect(replace(KNOWS, credential=credential))
        fault = one_fault(cloud.received(stranger))
        said = (FaultCode.BAD_CREDENTIAL, f"expected a token, got {got}")
        assert (fault.code, fault.message) == said
        assert stranger in cloud.closed


def test_the_key_of_another_name_is_unknown() -> None:
    cloud = Named(entry("anna"), entry("bert"))
    anna, bert = cloud.come("anna"), cloud.come("bert")
    cloud.send(anna, opening(1, key=7))
    cloud.send(anna, states(1, 0, A[:4]))
    cloud.run_all()
    cloud.received(anna)
    assert cloud.send(bert, opening(1, key=7)) == [Opened(SessionId(1), 0)], "as if it were new"
    fault = one_fault(cloud.send(bert, states(1, 4, A[4:5])))
    assert fault.code is FaultCode.POSITION_MISMATCH, "nothing of it is there"
    assert cloud.received(anna) == [], "and she does not notice"
    cloud.disconnect(anna)
    again = cloud.come("anna", address="elsewhere")
    assert cloud.send(again, opening(1, key=7))[-1] == Opened(SessionId(1), 4)
    cloud.send(again, states(1, 4, A[4:5]))
    cloud.run_all()
    [reply] = cloud.replies(again)
    assert rows_of(reply.payload) == deep_rows(A[:5], 1)


def test_the_lane_key_of_another_name_is_unknown() -> None:
    cloud = Named(entry("anna"), entry("bert"), max_lanes=4)
    cloud.come("anna", codecs=KNOWS.codecs | 1 << Ability.LANES)
    lane = cloud.join(Join(1, b"k" * 16, b"token of bert"))
    assert one_fault(cloud.received(lane)).code is FaultCode.UNKNOWN_SESSION
    lane = cloud.join(Join(1, b"k" * 16, b"token of anna"))
    assert not [m for m in cloud.received(lane) if isinstance(m, Fault)]


def test_a_revocation_ends_connections_and_sessions_of_the_name_alone() -> None:
    cloud = Named(entry("anna"), entry("bert"))
    anna, lost, bert = cloud.come("anna"), cloud.come("anna"), cloud.come("bert")
    for device, key in ((anna, 1), (lost, 2), (bert, 3)):
        cloud.send(device, opening(1, key=key))
    cloud.disconnect(lost)
    cloud.received(anna)
    cloud.admit(cloud.tokens.revoked(Name("anna"), UNIX_S))
    fault = one_fault(cloud.received(anna))
    assert (fault.code, fault.message) == (FaultCode.BAD_CREDENTIAL, "anna was revoked")
    assert cloud.closed == {anna}
    assert cloud.core.figures().num_sessions == 1
    assert one_fault(cloud.received(cloud.come("anna"))).message == "anna was revoked"
    assert cloud.send(bert, opening(2, key=4)) == [Opened(SessionId(2), 0)]


@pytest.mark.parametrize("token", ["of another", None])
def test_a_name_whose_token_is_another_has_to_come_anew(token: str | None) -> None:
    cloud = Named(entry("anna"))
    anna = cloud.come("anna")
    cloud.send(anna, opening(1, key=1))
    cloud.received(anna)
    digest = None if token is None else digest_of(token)
    cloud.admit(tokens_of([replace(entry("anna"), digest=digest)]))
    assert one_fault(cloud.received(anna)).message == "the token of anna is one no more"
    assert cloud.core.figures().num_sessions == 0


def test_a_name_that_expires_goes_in_time() -> None:
    cloud = Named(entry("anna", expires_unix_s=UNIX_S + 90))
    anna = cloud.come("anna")
    cloud.pass_time(89)
    assert anna not in cloud.closed
    cloud.pass_time(1)
    fault = one_fault(cloud.received(anna))
    assert fault.code is FaultCode.BAD_CREDENTIAL
    assert "expired on 2027-01-15 08:01 UTC" in fault.message


def test_another_quota_counts_at_once_and_ends_nothing() -> None:
    cloud = Named(entry("anna", Quota(sessions=1)))
    anna = cloud.come("anna")
    cloud.send(anna, opening(1, key=1))
    assert one_fault(cloud.send(anna, opening(2, key=2))).code is FaultCode.QUOTA
    cloud.admit(tokens_of([entry("anna", Quota(sessions=2))]))
    assert cloud.send(anna, opening(3, key=3)) == [Opened(SessionId(3), 0)]
    cloud.admit(tokens_of([entry("anna", Quota(sessions=1))]))
    assert cloud.core.figures().num_sessions == 2
    assert anna not in cloud.closed


def test_whoever_came_while_nobody_was_asked_goes_once_there_are_names() -> None:
    cloud = Cloud(MANY)
    anyone = cloud.connect()
    cloud.send(anyone, opening(1, key=1))
    cloud._take(cloud.core.admit(None, UNIX_S, cloud.now))
    cloud.received(anyone)
    assert anyone not in cloud.closed
    cloud._take(cloud.core.admit(tokens_of([entry("anna")]), UNIX_S, cloud.now))
    assert one_fault(cloud.received(anyone)).message == "expected a token, got none"
    assert cloud.core.figures().num_sessions == 0


def test_connections_of_a_name_are_counted_wherever_they_come_from() -> None:
    cloud = Named(entry("anna", Quota(connections=2)), entry("bert"))
    cloud.come("anna", "one house")
    second = cloud.come("anna", "another")
    fault = one_fault(cloud.received(cloud.come("anna", "a third")))
    assert fault.code is FaultCode.QUOTA
    assert fault.message == "the quota of anna is 2 connections at once; there are 2"
    assert fault.retry_after_s > 0
    assert isinstance(cloud.received(cloud.come("bert", "one house"))[0], Welcome)
    cloud.disconnect(second)
    assert isinstance(cloud.received(cloud.come("anna", "a third"))[0], Welcome)


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize(
    ("quota", "words"),
    [
        (Quota(sessions=2), "2 sessions at once; there are 2"),
        (Quota(kv_tokens=40), "40 tokens of KV cache at once; 32 are reserved, and 16 more"),
    ],
)
def test_what_a_name_holds_is_bounded_whether_others_are_there_or_not(
    quota: Quota, words: str, is_alone: bool
) -> None:
    cloud = Named(entry("anna", quota), entry("bert"))
    anna = cloud.come("anna")
    if not is_alone:
        cloud.come("bert")
    for number in (1, 2):
        cloud.send(anna, opening(number, key=number))
        cloud.send(anna, states(number, 0, A[:1]))
    fault = one_fault(cloud.send(anna, opening(3, key=3)))
    assert fault.code is FaultCode.QUOTA
    assert words in fault.message
    assert fault.retry_after_s > 0
    cloud.run_all()
    cloud.send(anna, Close(SessionId(1)))
    assert cloud.send(anna, opening(4, key=4))[-1] == Opened(SessionId(4), 0)


def test_a_session_beyond_the_whole_quota_is_never_to_be_had() -> None:
    cloud = Named(entry("anna", Quota(kv_tokens=10)))
    fault = one_fault(cloud.send(cloud.come("anna"), opening(1, key=1)))
    assert (fault.code, fault.retry_after_s) == (FaultCode.QUOTA, 0.0)


def test_an_idle_session_of_the_name_gives_way_to_its_next_one() -> None:
    cloud = Named(entry("anna", Quota(sessions=1)))
    old, new = cloud.come("anna"), cloud.come("anna")
    cloud.send(old, opening(1, key=1))
    cloud.disconnect(old)
    assert cloud.send(new, opening(1, key=2))[-1] == Opened(SessionId(1), 0)
    assert cloud.core.figures().num_sessions == 1


def test_tokens_of_a_day_are_counted_to_the_last_and_the_next_day_brings_more() -> None:
    cloud = Named(entry("anna", Quota(tokens_per_day=6)), entry("bert"))
    anna, bert = cloud.come("anna"), cloud.come("bert")
    for device in (anna, bert):
        cloud.send(device, opening(1, key=1))
    cloud.send(anna, states(1, 0, A[:4]))
    fault = one_fault(cloud.send(anna, states(1, 4, A[4:7])))
    assert fault.code is FaultCode.QUOTA, "those that wait count"
    assert "6 tokens a day; 0 were used today" in fault.message
    assert 0 < fault.retry_after_s <= 86_400
    cloud.send(anna, opening(2, key=2))
    cloud.send(anna, states(2, 0, A[:4]))
    cloud.run_all()
    cloud.send(anna, states(2, 4, A[4:6]))
    cloud.run_all()
    cloud.received(anna)
    fault = one_fault(cloud.send(anna, states(2, 6, A[6:7])))
    assert "6 were used today" in fault.message
    assert one_fault(cloud.send(anna, opening(3, key=3))).code is FaultCode.QUOTA, "at once"
    cloud.send(bert, states(1, 0, A[:8]))
    cloud.run_all()
    assert len(cloud.replies(bert)) == 1, "others go on"
    cloud.pass_time(fault.retry_after_s)
    cloud.send(anna, opening(4, key=4))
    cloud.send(anna, states(4, 0, A[:6]))
    cloud.run_all()
    assert len(cloud.replies(anna)) == 1


def test_a_device_of_an_earlier_release_is_told_in_a_code_that_it_knows() -> None:
    cloud = Named(entry("anna", Quota(connections=1, tokens_per_day=2)))
    old = cloud.connect(replace(HELLO, credential=b"token of anna"))
    second = cloud.connect(replace(HELLO, credential=b"token of anna"))
    assert one_fault(cloud.received(second)).code is FaultCode.TOO_MANY_SESSIONS
    cloud.send(old, opening(1, key=1))
    assert one_fault(cloud.send(old, states(1, 0, A[:3]))).code is FaultCode.CAPACITY


def test_two_names_behind_one_address_are_two_and_one_name_at_two_addresses_is_one() -> None:
    cloud = Named(entry("anna"), entry("bert"), max_sessions=8)
    first, second, bert = cloud.come("anna", "x"), cloud.come("anna", "y"), cloud.come("bert", "x")
    for number in range(1, 5):
        device = first if number % 2 else second
        assert cloud.send(device, opening(number, key=number))[-1] == Opened(SessionId(number), 0)
        cloud.send(device, states(number, 0, A[:1]))
    fault = one_fault(cloud.send(first, opening(9, key=9)))
    assert fault.message == "expected at most 4 sessions of one name", "half of all, as one"
    for number in range(1, 5):
        assert cloud.send(bert, opening(number, key=20 + number)) == [Opened(SessionId(number), 0)]


def test_turns_are_shared_by_name() -> None:
    cloud = Named(entry("anna"), entry("bert"), step_budget_tokens=6, target_step_s=0.0)
    annas, bert = [cloud.come("anna", f"{n}") for n in range(3)], cloud.come("bert", "0")
    for device in (*annas, bert):
        for number in (1, 2):
            cloud.send(device, opening(number, key=device * 10 + number))
            cloud.send(device, states(number, 0, A[:3]))
    cloud.run_step()
    assert len(cloud.replies(bert)) == 1, "one of the two that fit a step, of eight that wait"


def test_figures_by_name_are_of_a_bounded_number_of_names() -> None:
    entries = [entry(f"n{number}") for number in range(150)]
    cloud = Named(*entries, max_connections=200)
    for number in range(150):
        cloud.come(f"n{number}", f"address {number}")
    figures = cloud.core.name_figures()
    assert len(figures) == 101
    assert figures[Name("n0")].num_connections == 1
    assert figures[Name("other")].num_connections == 50
    assert cloud.core.name_figures().keys() == figures.keys()


def test_figures_tell_rows_and_refusals_of_each_name() -> None:
    cloud = Named(entry("anna", Quota(tokens_per_day=3)))
    anna = cloud.come("anna")
    cloud.send(anna, opening(1, key=1))
    cloud.send(anna, states(1, 0, A[:2]))
    cloud.run_all()
    cloud.send(anna, states(1, 2, A[2:4]))
    figures = cloud.core.name_figures()[Name("anna")]
    assert (figures.num_rows, figures.num_refused) == (2, 1)
