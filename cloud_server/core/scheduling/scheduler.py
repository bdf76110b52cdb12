"""What runs in the next step: verifications first, then prefill chunks, fair between identities.

Both kinds wait in a ring of identities, each with a ring of its connections, each with a ring of
its sequences. A turn gives an identity a quantum of rows, and within it a connection one (deficit
round robin: Shreedhar and Varghese, SIGCOMM 1995), so a share grows neither with sockets nor with
sessions or frames, and the wait is bounded: at most every other identity's turn comes first.
Whoever is held waits in his ring and has no turns there; his rows run when they are asked for.
Decoding work goes before prefill as in Sarathi-Serve (arXiv:2403.02310), but while prefill waits an
eighth of the budget is its own, or as much of it as those who decode can bear.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cloud_server.core.actions import ConnectionId, Identity, Owner, SequenceHandle

_CHUNK_SHARE = 8
"""Prefill gets at least one row in this many of a step's budget while it waits."""

_CHUNK_TURNS = 4
"""A turn of prefill is one in this many of a step's budget: so many identities share a step."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Rows of one sequence's first frame that go into the step."""

    handle: SequenceHandle
    num_rows: int


PromptTokens = Callable[[Sequence[Grant]], int | None]


@dataclass(slots=True)
class _Turn:
    """What is left of somebody's turn."""

    deficit_tokens: int = 0
    has_turn: bool = False

    def begin(self, quantum_tokens: int) -> None:
        """Be at the head of a ring, which begins a turn unless it has begun."""
        if not self.has_turn:
            self.has_turn = True
            self.deficit_tokens += quantum_tokens


@dataclass(slots=True)
class _Flow(_Turn):
    """One connection's waiting sequences with their rows."""

    waiting: dict[SequenceHandle, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Share(_Turn):
    """One identity's connections with something waiting."""

    flows: dict[ConnectionId, _Flow] = field(default_factory=dict)


class FairQueue:
    """Sequences that wait for rows of a step, served in turns of some rows.

    With `can_split` a turn may end inside a sequence's rows; without it an offer is taken whole
    and must not exceed a turn. A turn that the end of a step cuts short goes on in the next one.
    """

    def __init__(self, can_split: bool) -> None:
        self._can_split = can_split
        self._shares: dict[Identity, _Share] = {}
        self._num_waiting: Counter[Identity] = Counter()
        self._num_all = 0
        self._held: set[Identity] = set()

    @property
    def num_tokens(self) -> int:
        """Rows that wait of those who are not held."""
        held = sum(self._num_waiting[identity] for identity in self._held)
        return self._num_all - held

    def num_tokens_of(self, identity: Identity) -> int:
        """Rows that wait of one identity."""
        return self._num_waiting[identity]

    def hold(self, identity: Identity) -> None:
        """Give an identity no turns until it is let go."""
        self._held.add(identity)

    def let_go(self, identity: Identity) -> None:
        """Give it turns again."""
        self._held.discard(identity)

    def offer(self, owner: Owner, handle: SequenceHandle, num_rows: int) -> None:
        """Let a sequence wait with so many rows; behind all others unless it waits already."""
        share = self._shares.setdefault(owner.identity, _Share())
        flow = share.flows.setdefault(owner.connection, _Flow())
        self._count(owner.identity, num_rows - flow.waiting.get(handle, 0))
        flow.waiting[handle] = num_rows

    def withdraw(self, owner: Owner, handle: SequenceHandle) -> None:
        """Let a sequence wait no longer, if it does. Its owner keeps its place in the ring, and
        what is left of its turn, until it is met there with nothing."""
        share = self._shares.get(owner.identity)
        flow = None if share is None else share.flows.get(owner.connection)
        if flow is not None:
            self._count(owner.identity, -flow.waiting.pop(handle, 0))

    def take(
        self,
        budget_tokens: int,
        quantum_tokens: int,
        held: Identity | None = None,
        is_exact: bool = False,
    ) -> list[Grant]:
        """At most `budget_tokens` rows, in turns; what is granted waits no longer.

        An offer that is larger than the budget and must not be split is granted alone, unless the
        budget `is_exact`. With `held` they are all of this one, who is held.
        """
        granted: dict[tuple[Owner, SequenceHandle], int] = {}
        while budget_tokens > 0 and (owner := self._begin_turn(quantum_tokens, held)) is not None:
            handle, num_rows = self._next_of(owner)
            if num_rows == 0:
                self._end_turn(owner)
                continue
            if num_rows > budget_tokens and not self._can_split and (granted or is_exact):
                break
            if self._can_split:
                num_rows = min(num_rows, budget_tokens)
            budget_tokens -= num_rows
            granted[owner, handle] = granted.get((owner, handle), 0) + num_rows
            self._serve(owner, handle, num_rows)
        for owner, handle in granted:
            # Of what is left of it the caller makes a new offer, in the same place: see withdraw.
            self.withdraw(owner, handle)
        return [Grant(handle, num_rows) for (_, handle), num_rows in granted.items()]

    def _begin_turn(self, quantum_tokens: int, held: Identity | None) -> Owner | None:
        """Whose turn it is; those with nothing are left out from now on."""
        while (identity := self._first(held)) is not None:
            share = self._shares[identity]
            while share.flows:
                connection, flow = next(iter(share.flows.items()))
                if flow.waiting:
                    share.begin(quantum_tokens)
                    flow.begin(quantum_tokens)
                    return Owner(identity, connection)
                del share.flows[connection]
            del self._shares[identity]
        return None

    def _first(self, held: Identity | None) -> Identity | None:
        if held is not None:
            return held if held in self._shares else None
        return next((each for each in self._shares if each not in self._held), None)

    def _count(self, identity: Identity, num_rows: int) -> None:
        self._num_all += num_rows
        self._num_waiting[identity] += num_rows
        if not self._num_waiting[identity]:
            del self._num_waiting[identity]

    def _next_of(self, owner: Owner) -> tuple[SequenceHandle, int]:
        """The sequence that is served next, and how many rows its owner may have now."""
        share, flow = self._at(owner)
        allowed_tokens = min(share.deficit_tokens, flow.deficit_tokens)
        handle, num_waiting = next(iter(flow.waiting.items()))
        if self._can_split:
            return handle, min(num_waiting, allowed_tokens)
        return handle, num_waiting if num_waiting <= allowed_tokens else 0

    def _serve(self, owner: Owner, handle: SequenceHandle, num_rows: int) -> None:
        """Take rows off an offer; what is left of it goes behind the connection's others."""
        share, flow = self._at(owner)
        share.deficit_tokens -= num_rows
        flow.deficit_tokens -= num_rows
        self._count(owner.identity, -num_rows)
        num_left = flow.waiting.pop(handle) - num_rows
        if num_left:
            flow.waiting[handle] = num_left
        if not flow.waiting:
            del share.flows[owner.connection]

    def _end_turn(self, owner: Owner) -> None:
        """The connection's turn, or that of its identity, has too few rows left for what waits."""
        share, flow = self._at(owner)
        least_tokens = 1 if self._can_split else next(iter(flow.waiting.values()))
        if flow.deficit_tokens < least_tokens:
            flow.has_turn = False
            share.flows[owner.connection] = share.flows.pop(owner.connection)
        else:
            share.has_turn = False
            self._shares[owner.identity] = self._shares.pop(owner.identity)

    def _at(self, owner: Owner) -> tuple[_Share, _Flow]:
        share = self._shares[owner.identity]
        return share, share.flows[owner.connection]


class Scheduler:
    """Shares the rows of each step among the sequences that have something to run."""

    def __init__(self, verify_tokens: int) -> None:
        self._verify_tokens = verify_tokens
        self._verifications = FairQueue(can_split=False)
        self._chunks = FairQueue(can_split=True)

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits of somebody who is not held."""
        return bool(self._verifications.num_tokens or self._chunks.num_tokens)

    def is_waiting(self, identity: Identity) -> bool:
        """Whether a sequence of an identity waits."""
        queues = (self._verifications, self._chunks)
        return any(queue.num_tokens_of(identity) for queue in queues)

    def hold(self, identity: Identity) -> None:
        """Leave an identity out of plans until it is let go."""
        self._verifications.hold(identity)
        self._chunks.hold(identity)

    def let_go(self, identity: Identity) -> None:
        """Plan with it again."""
        self._verifications.let_go(identity)
        self._chunks.let_go(identity)

    def plan_held(self, identity: Identity, budget_tokens: int, is_exact: bool) -> list[Grant]:
        """Rows of one who is held, verifications first; see `FairQueue.take`.

        Chunks do not overtake a verification that is longer than an exact budget.
        """
        quantum = self._verify_tokens
        grants = self._verifications.take(budget_tokens, quantum, identity, is_exact)
        if not grants and self._verifications.num_tokens_of(identity):
            return []
        num_left = budget_tokens - sum(grant.num_rows for grant in grants)
        if num_left < 1:
            return grants
        return grants + self._chunks.take(num_left, num_left, identity)

    def offer_verification(self, owner: Owner, handle: SequenceHandle, num_rows: int) -> None:
        """Let a sequence wait with at most `verify_tokens` rows, which run together."""
        assert num_rows <= self._verify_tokens, "a verification fits a turn"
        self._chunks.withdraw(owner, handle)
        self._verifications.offer(owner, handle, num_rows)

    def offer_chunk(self, owner: Owner, handle: SequenceHandle, num_rows: int) -> None:
        """Let a sequence wait with rows that may be split over several steps."""
        self._verifications.withdraw(owner, handle)
        self._chunks.offer(owner, handle, num_rows)

    def withdraw(self, owner: Owner, handle: SequenceHandle) -> None:
        """Let a sequence wait no longer, if it does."""
        self._verifications.withdraw(owner, handle)
        self._chunks.withdraw(owner, handle)

    def plan(
        self, budget_tokens: int, prompt_tokens: PromptTokens = lambda verified: None
    ) -> list[Grant]:
        """The next step's rows, at most one grant per sequence; they wait no longer.

        Within the budget, but for one verification and prefill's share beside it, which always
        fit: a budget may be as small as one row, and both kinds go on. How much prefill has beside
        verifications `prompt_tokens` says of these, who sees to it that prefill goes on; None: its
        share, and what they leave of the budget.
        """
        if budget_tokens < 1:
            raise ValueError(f"expected a budget of at least 1 token, got {budget_tokens}")
        share = min(max(1, budget_tokens // _CHUNK_SHARE), self._chunks.num_tokens)
        grants = self._verifications.take(max(1, budget_tokens - share), self._verify_tokens)
        if not self._chunks.num_tokens:
            return grants
        num_left = max(share, budget_tokens - sum(grant.num_rows for grant in grants))
        most_tokens = prompt_tokens(grants)
        chunk_budget = num_left if most_tokens is None else min(num_left, most_tokens)
        quantum_tokens = max(1, min(budget_tokens, chunk_budget) // _CHUNK_TURNS)
        return grants + self._chunks.take(chunk_budget, quantum_tokens)
