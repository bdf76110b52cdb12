"""What waits to be sent on a socket, and what goes next: small verifications before big chunks."""

from collections import deque
from collections.abc import Callable

from wire.messages import Close, Open, SessionId, States, Trace

Control = Open | Trace | Close
"""What costs no credit and goes first."""

_Rows = tuple[int, bool, States]
"""When it was put, whether it is a verification, and the rows themselves."""


class Outbox:
    """One queue for each session, one for Open, Trace and Close; none decides its own length.

    Frames of one session never overtake each other: a round that follows a replay waits for it.
    Between sessions, Open and Close go first and cost no credit; then verifications; then prefill
    chunks, each in the order they came, which is round robin since a session has few at a time. A
    quarter of the credit window is kept from prefill, so a prompt cannot use up what
    verifications need. An Open of a copy overtakes the rows of its source: it asks for what replies
    have said to be cached, and rows under way begin behind that (rule W29).
    """

    def __init__(self, credit_window_tokens: int) -> None:
        self._reserve_tokens = credit_window_tokens // 4
        self._num_put = 0
        self._control: deque[Control] = deque()
        self._rows: dict[SessionId, deque[_Rows]] = {}

    def put(self, item: Control | States, is_verify: bool = False) -> None:
        """Queue something; rows of a verification overtake prefill chunks.

        A Close forgets the rows of its session, which is over.
        """
        if isinstance(item, States):
            self._num_put += 1
            rows = self._rows.setdefault(item.session, deque())
            rows.append((self._num_put, is_verify, item))
            return
        if isinstance(item, Close):
            self.discard(item.session)
        self._control.append(item)

    def next(
        self, num_available_tokens: int, takes: Callable[[States], bool] = lambda _: True
    ) -> Control | States | None:
        """Take out what the credit lets go next; None while nothing may.

        A verification that lacks credit holds back the chunks behind it. What goes another way
        (`takes` is false) stays, and keeps the credit for itself.
        """
        if self._control:
            return self._control.popleft()
        return self.next_rows(num_available_tokens, takes)

    def next_rows(
        self, num_available_tokens: int, takes: Callable[[States], bool]
    ) -> States | None:
        """The same of rows alone; none while an Open or Close is to go before."""
        heads = [] if self._control else [rows[0] for rows in self._rows.values()]
        for _, is_verify, states in sorted(heads, key=lambda head: (not head[1], head[0])):
            spendable = num_available_tokens - (0 if is_verify else self._reserve_tokens)
            if states.num_rows > spendable:
                return None
            if takes(states):
                self._forget_first(states.session)
                return states
            num_available_tokens -= states.num_rows
        return None

    def discard(self, session: SessionId) -> None:
        """Forget a session's rows; it is over."""
        self._rows.pop(session, None)

    def discard_older(self, session: SessionId, epoch: int) -> int:
        """Forget a session's rows of epochs before this one; how many frames that were."""
        rows = self._rows.get(session, deque())
        left = deque(each for each in rows if each[2].epoch >= epoch)
        if left:
            self._rows[session] = left
        else:
            self.discard(session)
        return len(rows) - len(left)

    def _forget_first(self, session: SessionId) -> None:
        rows = self._rows[session]
        rows.popleft()
        if not rows:
            del self._rows[session]


def max_prefill_rows(max_frame_tokens: int, credit_window_tokens: int) -> int:
    """The longest frame that credit always lets through in the end.

    The cloud may hold back a quarter of the window (it does not announce less), and the outbox
    keeps a quarter for verifications: half is left.
    """
    return max(1, min(max_frame_tokens, credit_window_tokens // 2))
