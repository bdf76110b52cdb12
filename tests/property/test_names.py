"""The register of names and what each has used, under a given clock."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.core.names.people import People, Person
from cloud_server.core.names.quota import Quota, QuotaKind
from cloud_server.core.names.tokens import (
    ANYONE,
    RESERVED,
    SHARED,
    Entry,
    Name,
    Tokens,
    TokensError,
    check_name,
    digest_of,
    from_text,
    to_text,
    tokens_of,
)
from cloud_server.core.names.usage import Usage

DAY_S = 86_400
PHONE = Name("phone")

bounds = st.none() | st.integers(1, 1 << 40)
quotas = st.builds(Quota, bounds, bounds, bounds, bounds, bounds)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,20}", fullmatch=True).filter(
    lambda text: text not in RESERVED
)
times = st.floats(0, 4e9).map(lambda value: round(value, 3))


@st.composite
def registers(draw: st.DrawFn) -> Tokens:
    entries = []
    for name in draw(st.lists(names, unique=True, max_size=4)):
        digest = draw(st.none() | st.just(digest_of(name)))
        rest = (draw(times), draw(quotas), draw(st.none() | times), draw(st.none() | times))
        entries.append(Entry(Name(name), digest, *rest))
    return tokens_of(entries)


@given(registers())
def test_a_register_is_read_as_it_was_written(tokens: Tokens) -> None:
    text = to_text(tokens)
    assert from_text(text) == tokens
    for entry in tokens.entries.values():
        if entry.digest is not None:
            assert tokens.find(entry.name.encode()) == entry
    assert tokens.find(b"") is None


@given(registers(), times)
def test_who_was_revoked_or_has_expired_is_nobody(tokens: Tokens, unix_s: float) -> None:
    people = People(b"")
    people.admit(tokens, unix_s, now=50.0)
    for entry in tokens.entries.values():
        ended = entry.expires_unix_s is not None and unix_s >= entry.expires_unix_s
        may_come = entry.digest is not None and entry.revoked_unix_s is None and not ended
        person = people.who(entry.name.encode(), None, 50.0)
        assert (person == Person(entry.name, entry.digest or b"")) is may_come
        assert (person is None) is not may_come
        if may_come:
            assert people.why_no_more(Person(entry.name, entry.digest or b""), 50.0) is None
            assert people.why_no_more(Person(entry.name, b"another"), 50.0) is not None
    assert people.who(b"a guess", None, 50.0) is None
    assert people.who(b"", None, 50.0) is None, "with a register somebody has to be somebody"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "names": {}}',
        '{"version": 1, "names": []}',
        '{"version": 1, "names": {}, "more": 1}',
        '{"version": 1, "names": {"a": {"sha256": "00"}}}',
        '{"version": 1, "names": {"a": {"sha256": 3}}}',
        '{"version": 1, "names": {"a": {"quota": {"sessions": 0}}}}',
        '{"version": 1, "names": {"a": {"quota": {"sesions": 1}}}}',
        '{"version": 1, "names": {"a": {"quota": {"sessions": true}}}}',
        '{"version": 1, "names": {"a": {"expires_unix_s": "tomorrow"}}}',
        '{"version": 1, "names": {"a": {"expires_unix_s": 1e300}}}',
        '{"version": 1, "names": {"a": {"expires": 1}}}',
        '{"version": 1, "names": {"shared": {}}}',
        '{"version": 1, "names": {"a b": {}}}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_no_register_is_refused(text: str) -> None:
    with pytest.raises(TokensError):
        from_text(text)


def test_two_names_have_two_tokens() -> None:
    one = f'{{"sha256": "{digest_of("t").hex()}"}}'
    with pytest.raises(TokensError, match="of its own"):
        from_text(f'{{"version": 1, "names": {{"a": {one}, "b": {one}}}}}')


@pytest.mark.parametrize("text", ["", ".a", "a b", "a" * 65, "ä", "shared", "anyone", "other"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(TokensError):
        check_name(text)


def test_a_revoked_name_stays_written_down_until_it_is_added_again() -> None:
    entry = Entry(PHONE, digest_of("old"), 1.0)
    tokens = tokens_of([entry])
    with pytest.raises(TokensError, match="already"):
        tokens.added(entry)
    revoked = tokens.revoked(PHONE, 5.0)
    assert revoked.find(b"old") == revoked.get(PHONE)
    for name in (PHONE, Name("nobody")):
        with pytest.raises(TokensError):
            revoked.revoked(name, 6.0)
    again = revoked.added(Entry(PHONE, digest_of("new"), 7.0))
    assert again.find(b"old") is None
    assert again.find(b"new") is not None


def test_without_secret_and_register_everybody_comes_and_with_the_secret_who_knows_it() -> None:
    assert People(b"").who(b"whatever", None, 0.0) == Person(ANYONE)
    people = People(b"secret")
    assert people.who(b"secret", None, 0.0) == Person(SHARED)
    assert people.who(b"", None, 0.0) is None
    people.admit(tokens_of([Entry(PHONE, digest_of("token"), 0.0)]), 10.0, 0.0)
    assert people.who(b"secret", None, 0.0) == Person(SHARED), "the simplest form stays"
    assert people.who(b"token", None, 0.0) == Person(PHONE, digest_of("token"))


def test_a_certificate_is_a_name_until_it_is_revoked() -> None:
    people = People(b"", takes_certificates=True)
    assert people.who(b"", "car", 0.0) == Person(Name("car"))
    assert people.who(b"", None, 0.0) is None
    assert people.who(b"a guess", "car", 0.0) is None, "what it says counts more"
    assert people.who(b"", "shared", 0.0) is None, "a certificate is not the secret"
    tokens = tokens_of([Entry(Name("car"), None, 0.0)])
    people.admit(tokens.revoked(Name("car"), 3.0), 10.0, 0.0)
    assert people.who(b"", "car", 0.0) is None
    assert people.why_no_more(Person(Name("car")), 0.0) == "car was revoked"


@given(
    rate=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 64)), max_size=60),
)
def test_rows_run_at_the_rate_beyond_a_second_and_a_step(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    """Whoever runs rows only while some are free runs no more than that, and never less."""
    usage, quota, now, num_run = Usage(), Quota(rows_per_s=rate), 0.0, 0
    for pause_s, num_rows in steps:
        now += pause_s
        if usage.free_rows(PHONE, quota, now):
            usage.ran(PHONE, quota, num_rows, now, now)
            num_run += num_rows
        else:
            assert usage.has_reached_rate(PHONE, quota, now)
            wait_s = usage.wait_s(PHONE, quota, 1, now)
            assert usage.free_rows(PHONE, quota, now + wait_s + 1e-6) >= 1
            now += wait_s + 1e-6
        assert num_run <= rate * (now + 1.0) + 64
    now += 2.0 + 64 / rate
    assert not usage.has_reached_rate(PHONE, quota, now), "after a pause all is as at first"
    assert usage.free_rows(PHONE, quota, now) == rate


def test_who_is_refused_now_and_then_does_not_insist_and_who_asks_on_and_on_does() -> None:
    usage, now = Usage(), 0.0
    usage.refused(PHONE, 15, now)
    for _ in range(40):
        now += 1.0
        usage.refused(PHONE, 1, now)
        assert not usage.insists(PHONE, now)
    usage.refused(PHONE, 10, now)
    assert usage.insists(PHONE, now)
    assert usage.insists(PHONE, now + 5)
    assert not usage.insists(PHONE, now + 25), "whatever was asked before"
    assert not usage.insists(Name("another"), now)


@given(
    most=st.integers(1, 200),
    asks=st.lists(st.tuples(st.integers(0, DAY_S), st.integers(1, 90)), max_size=40),
)
def test_no_more_run_in_a_day_than_the_quota_and_a_new_day_begins_anew(
    most: int, asks: list[tuple[int, int]]
) -> None:
    usage, quota, unix_s = Usage(), Quota(tokens_per_day=most), 20_000.0 * DAY_S + 77
    used: dict[int, int] = {}
    for pause_s, num_rows in asks:
        unix_s += pause_s
        day = int(unix_s // DAY_S)
        refusal = usage.refuse_rows(PHONE, quota, num_rows, unix_s)
        assert (refusal is None) is (used.get(day, 0) + num_rows <= most)
        if refusal is None:
            usage.ran(PHONE, quota, num_rows, 0.0, unix_s)
            used[day] = used.get(day, 0) + num_rows
            continue
        assert refusal.kind is QuotaKind.TOKENS_PER_DAY
        assert f"is {most} {'token' if most == 1 else 'tokens'} a day;" in refusal.message
        later = datetime.fromtimestamp(unix_s + refusal.retry_after_s, UTC)
        assert int(later.timestamp() // DAY_S) == day + 1
        assert usage.refuse_rows(Name("another"), quota, 1, unix_s) is None


def test_a_clock_that_is_set_back_gives_no_second_day() -> None:
    usage, quota = Usage(), Quota(tokens_per_day=10)
    usage.ran(PHONE, quota, 10, 0.0, 5.0 * DAY_S)
    assert usage.refuse_rows(PHONE, quota, 1, 4.0 * DAY_S) is not None
