"""What waits to be sent on a socket, and what goes next: small verifications before big chunks."""

from collections import deque
from dataclasses import dataclass

from wire.messages import Close, Open, SessionId, States


@dataclass(frozen=True, slots=True)
class RowsFrame:
    """A States message on its way out, and whether it overtakes prefill chunks."""

    states: States
    is_verify: bool


class Outbox:
    """Three queues, none of which decides its own length: sessions bound what they put in.

    Open and Close go first and cost no credit; then verifications; then prefill chunks, in the
    order they came, which is round robin since a session has few at a time. A quarter of the
    credit window is kept from prefill, so a prompt cannot use up what verifications need.
    """

    def __init__(self, credit_window_tokens: int) -> None:
        self._reserve_tokens = credit_window_tokens // 4
        self._control: deque[Open | Close] = deque()
        self._verify: deque[RowsFrame] = deque()
        self._prefill: deque[RowsFrame] = deque()

    def put(self, item: Open | Close | RowsFrame) -> None:
        """Queue something behind its kind."""
        match item:
            case RowsFrame(is_verify=True):
                self._verify.append(item)
            case RowsFrame():
                self._prefill.append(item)
            case _:
                self._control.append(item)

    def next(self, num_available_tokens: int) -> Open | Close | RowsFrame | None:
        """Take out what the credit lets go next; None while nothing may.

        A verification that lacks credit holds back the chunks behind it.
        """
        if self._control:
            return self._control.popleft()
        if self._verify:
            if self._verify[0].states.num_rows <= num_available_tokens:
                return self._verify.popleft()
            return None
        spendable = num_available_tokens - self._reserve_tokens
        if self._prefill and self._prefill[0].states.num_rows <= spendable:
            return self._prefill.popleft()
        return None

    def discard(self, session: SessionId) -> None:
        """Forget a session's rows; it is over."""
        self._verify = deque(f for f in self._verify if f.states.session != session)
        self._prefill = deque(f for f in self._prefill if f.states.session != session)


def max_prefill_rows(max_frame_tokens: int, credit_window_tokens: int) -> int:
    """The longest frame that credit always lets through in the end.

    The cloud may hold back a quarter of the window (it does not announce less), and the outbox
    keeps a quarter for verifications: half is left.
    """
    return max(1, min(max_frame_tokens, credit_window_tokens // 2))
