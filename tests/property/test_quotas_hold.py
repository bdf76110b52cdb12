"""Whatever devices of two names do, no quota is exceeded, and who has none is served."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.core.actions import ConnectionId
from cloud_server.core.names.people import name_in
from cloud_server.core.names.quota import NO_QUOTA, Quota
from cloud_server.core.names.tokens import Entry, Name, digest_of, tokens_of
from tests.support.cloud_core import CONFIG, HELLO, Cloud, opening, shallow_rows, states
from wire.messages import Ability, Close, SessionId, Want, Welcome

ROWS = shallow_rows(*range(40))
NAMES = ("hog", "guest")
DAY_S = 86_400.0
KINDS = ("come", "leave", "close", "wait", "revoke", *["open"] * 3, *["rows"] * 4, *["step"] * 4)

small = st.none() | st.integers(1, 3)
quotas = st.builds(
    Quota,
    connections=small,
    sessions=small,
    kv_tokens=st.none() | st.integers(8, 40),
    rows_per_s=st.none() | st.integers(1, 30),
    tokens_per_day=st.none() | st.integers(1, 60),
)
events = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 7),
        st.integers(1, 12),
    ),
    min_size=30,
    max_size=120,
)


class Two:
    """A cloud with two names, what ran of each, and a world in which a day begins with the test."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        many = replace(CONFIG, capacity_tokens=160, max_sessions=12, max_connections=12)
        self.cloud = Cloud(many)
        self._began_s = self.cloud.now
        self.tokens = tokens_of(
            Entry(Name(name), digest_of(name), 0.0, quota if name == "hog" else NO_QUOTA)
            for name in NAMES
        )
        self.num_run = 0
        self.admit()

    def admit(self) -> None:
        unix_s = 10_000 * DAY_S + self.cloud.now - self._began_s
        self.cloud._take(self.cloud.core.admit(self.tokens, unix_s, self.cloud.now))

    def perform(self, what: str, which: int, many: int) -> None:
        cloud = self.cloud
        alive = [c for c in cloud.devices if c not in cloud.closed]
        device = alive[which % len(alive)] if alive else None
        if what == "come":
            hello = replace(HELLO, codecs=1 | 1 << Ability.QUOTAS)
            cloud.connect(replace(hello, credential=NAMES[which % 2].encode()), f"house {which}")
        elif what == "step":
            self.step()
        elif what == "wait":
            cloud.pass_time(many / 4)
            self.admit()
        elif what == "revoke" and which == 0 and many == 1:
            self.tokens = self.tokens.revoked(Name("hog"), 0.0) if self.is_hog_in else self.tokens
            self.admit()
        elif device is not None:
            self.say(device, what, which, many)

    @property
    def is_hog_in(self) -> bool:
        entry = self.tokens.get(Name("hog"))
        return entry is not None and entry.revoked_unix_s is None

    def say(self, device: ConnectionId, what: str, which: int, many: int) -> None:
        cloud = self.cloud
        number = max(1, cloud.next_session(device) - 1 - which % 2)
        if what == "leave":
            cloud.disconnect(device)
        elif what == "open":
            new = cloud.next_session(device)
            cloud.send(device, opening(new, key=which * 20 + many, max_tokens=8 + many))
        elif what == "rows" and cloud.devices[device].is_live(SessionId(number)):
            if cloud.devices[device].num_available_tokens >= many:
                cloud.send(device, states(number, 0, ROWS[:many], Want.LAST))
        elif what == "close":
            cloud.send(device, Close(SessionId(number)))

    def step(self) -> None:
        step = self.cloud.core.next_step(self.cloud.now)
        if step is None:
            return
        table = self.cloud.core._sessions.table
        for item in step.items:
            session = table.get(item.handle)
            assert session is not None
            self.num_run += item.num_rows * (name_in(session.identity) == "hog")
        self.cloud.finish_step(step)

    def check(self) -> None:
        figures = self.cloud.core.name_figures().get(Name("hog"))
        if figures is None:
            return
        most = self.quota
        assert figures.num_connections <= (most.connections or 12)
        assert figures.num_sessions <= (most.sessions or 12)
        assert figures.reserved_tokens <= (most.kv_tokens or 160)
        assert self.num_run <= (most.tokens_per_day or 10**9)
        if most.rows_per_s is not None:
            passed_s = self.cloud.now - self._began_s
            step_rows = CONFIG.step_budget_tokens + CONFIG.verify_tokens
            assert self.num_run <= most.rows_per_s * (passed_s + 1) + step_rows
        if not self.is_hog_in:
            assert figures.num_connections == figures.num_sessions == figures.queued_tokens == 0


@settings(max_examples=40)
@given(quota=quotas, happens=events)
def test_quotas_hold_whatever_happens_and_the_other_name_is_served(
    quota: Quota, happens: list[tuple[str, int, int]]
) -> None:
    two = Two(quota)
    for which in (0, 1, 2):
        two.perform("come", which, 1)
    for what, which, many in happens:
        two.perform(what, which, many)
        two.check()
    cloud = two.cloud
    cloud.pass_time(CONFIG.session_ttl_s + 1)
    two.admit()
    guest = cloud.connect(replace(HELLO, credential=b"guest"), "elsewhere")
    if not any(isinstance(m, Welcome) for m in cloud.received(guest)):
        assert sum(c not in cloud.closed for c in cloud.devices) > 6, "his own fill his share"
        return
    cloud.send(guest, opening(1, key=255, max_tokens=8))
    cloud.send(guest, states(1, 0, ROWS[:4]))
    for _ in range(200):
        two.step()
        cloud.now += 0.1
    assert len(cloud.replies(guest)) == 1
    assert not cloud.core.has_work, "and what waits of the other runs or went"
