"""What runs in the next step: verifications first, then prefill chunks, fair between devices.

Both kinds wait in a ring of connections, each with a ring of its sequences. A turn gives a
connection a quantum of rows (deficit round robin: Shreedhar and Varghese, SIGCOMM 1995), so a
device's share does not grow with its sessions or its frames, and the wait is bounded: at most
every other connection's turn comes first. Decoding work goes before prefill as in Sarathi-Serve
(arXiv:2403.02310), but while prefill waits an eighth of the budget is its own.
"""

from dataclasses import dataclass, field

from cloud_server.actions import ConnectionId, SequenceHandle

_CHUNK_SHARE = 8
"""Prefill gets at least one row in this many of a step's budget while it waits."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Rows of one sequence's first frame that go into the step."""

    handle: SequenceHandle
    num_rows: int


@dataclass(slots=True)
class _Flow:
    """One connection's waiting sequences with their rows, and what is left of its turn."""

    waiting: dict[SequenceHandle, int] = field(default_factory=dict)
    deficit_tokens: int = 0
    has_turn: bool = False


class FairQueue:
    """Sequences that wait for rows of a step, served in turns of `quantum_tokens`.

    With `can_split` a turn may end inside a sequence's rows; without it an offer is taken whole
    and must not exceed the quantum.
    """

    def __init__(self, quantum_tokens: int, can_split: bool) -> None:
        self._quantum_tokens = quantum_tokens
        self._can_split = can_split
        self._flows: dict[ConnectionId, _Flow] = {}
        self.num_tokens = 0

    def offer(self, connection: ConnectionId, handle: SequenceHandle, num_rows: int) -> None:
        """Let a sequence wait with so many rows; behind all others unless it waits already."""
        assert self._can_split or num_rows <= self._quantum_tokens, "an offer fits a turn"
        flow = self._flows.setdefault(connection, _Flow())
        self.num_tokens += num_rows - flow.waiting.get(handle, 0)
        flow.waiting[handle] = num_rows

    def withdraw(self, connection: ConnectionId, handle: SequenceHandle) -> None:
        """Let a sequence wait no longer, if it does."""
        flow = self._flows.get(connection)
        if flow is None:
            return
        self.num_tokens -= flow.waiting.pop(handle, 0)
        if not flow.waiting:
            del self._flows[connection]

    def take(self, budget_tokens: int) -> list[Grant]:
        """At most `budget_tokens` rows, in turns; what is granted waits no longer."""
        granted: dict[tuple[ConnectionId, SequenceHandle], int] = {}
        while self._flows and budget_tokens > 0:
            connection, flow = next(iter(self._flows.items()))
            self._begin_turn(flow)
            handle, num_waiting = next(iter(flow.waiting.items()))
            num_rows = min(num_waiting, flow.deficit_tokens) if self._can_split else num_waiting
            if num_rows == 0 or num_rows > flow.deficit_tokens:
                self._end_turn(connection, flow)
                continue
            if num_rows > budget_tokens and not self._can_split:
                break
            num_rows = min(num_rows, budget_tokens)
            budget_tokens -= num_rows
            key = (connection, handle)
            granted[key] = granted.get(key, 0) + num_rows
            self._serve(connection, handle, num_rows)
        for connection, handle in granted:
            self.withdraw(connection, handle)
        return [Grant(handle, num_rows) for (_, handle), num_rows in granted.items()]

    def _begin_turn(self, flow: _Flow) -> None:
        if not flow.has_turn:
            flow.has_turn = True
            flow.deficit_tokens += self._quantum_tokens

    def _serve(self, connection: ConnectionId, handle: SequenceHandle, num_rows: int) -> None:
        """Take rows off an offer; what is left of it goes behind the connection's others."""
        flow = self._flows[connection]
        flow.deficit_tokens -= num_rows
        self.num_tokens -= num_rows
        num_left = flow.waiting.pop(handle) - num_rows
        if num_left:
            flow.waiting[handle] = num_left
        if not flow.waiting:
            del self._flows[connection]

    def _end_turn(self, connection: ConnectionId, flow: _Flow) -> None:
        flow.has_turn = False
        self._flows[connection] = self._flows.pop(connection)


class Scheduler:
    """Shares the rows of each step among the sequences that have something to run."""

    def __init__(self, verify_tokens: int, chunk_quantum_tokens: int) -> None:
        self._verify_tokens = verify_tokens
        self._verifications = FairQueue(verify_tokens, can_split=False)
        self._chunks = FairQueue(chunk_quantum_tokens, can_split=True)

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits."""
        return bool(self._verifications.num_tokens or self._chunks.num_tokens)

    def offer_verification(
        self, connection: ConnectionId, handle: SequenceHandle, num_rows: int
    ) -> None:
        """Let a sequence wait with at most `verify_tokens` rows, which run together."""
        self._chunks.withdraw(connection, handle)
        self._verifications.offer(connection, handle, num_rows)

    def offer_chunk(self, connection: ConnectionId, handle: SequenceHandle, num_rows: int) -> None:
        """Let a sequence wait with rows that may be split over several steps."""
        self._verifications.withdraw(connection, handle)
        self._chunks.offer(connection, handle, num_rows)

    def withdraw(self, connection: ConnectionId, handle: SequenceHandle) -> None:
        """Let a sequence wait no longer, if it does."""
        self._verifications.withdraw(connection, handle)
        self._chunks.withdraw(connection, handle)

    def plan(self, budget_tokens: int) -> list[Grant]:
        """The next step's rows, at most one grant per sequence; they wait no longer.

        Args:
            budget_tokens: The most rows of the step, at least twice `verify_tokens`.
        """
        if budget_tokens < 2 * self._verify_tokens:
            least = 2 * self._verify_tokens
            raise ValueError(f"expected a budget of at least {least} tokens, got {budget_tokens}")
        share = min(max(1, budget_tokens // _CHUNK_SHARE), self._chunks.num_tokens)
        grants = self._verifications.take(budget_tokens - share)
        num_verified = sum(grant.num_rows for grant in grants)
        return grants + self._chunks.take(budget_tokens - num_verified)
