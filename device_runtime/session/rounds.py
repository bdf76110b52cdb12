"""What a session has under way: frames that wait for a reply, and rounds that wait for it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wire.errors import FaultCode, RemoteProtocolError
from wire.messages import Reply, Want


@dataclass(frozen=True, slots=True)
class Frame:
    """A sent frame that has no reply yet, and whether tokens are chosen from that reply."""

    epoch: int
    position: int
    num_tokens: int
    want: Want
    decides: bool

    def check(self, reply: Reply) -> None:
        """Let the only right reply pass.

        Raises:
            RemoteProtocolError: it is another.
        """
        num_rows, cached_tokens = (
            self.want.num_rows(self.num_tokens),
            self.position + self.num_tokens,
        )
        expected = (self.epoch, self.position, num_rows, cached_tokens)
        came = (reply.epoch, reply.position, reply.num_rows, reply.cached_tokens)
        if came != expected:
            names = "epoch, position, rows and cached tokens"
            reason = f"expected a reply with {names} {expected}, got {came}"
            raise RemoteProtocolError(FaultCode.POSITION_MISMATCH, reason)


@dataclass(frozen=True, slots=True)
class Round:
    """A draft and the token before it, to be verified together."""

    first: int
    """The text's last token; in a round behind another one, a guess at it."""
    draft: tuple[int, ...]
    started_s: float | None
    """When its drafting began; None where its time says nothing of what drafts are worth."""
    is_behind: bool
    """Whether it was drafted behind an undecided one."""
    may_go_on: bool
    """Whether something may be drafted behind it: it is likely enough to be right as a whole."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """What is sent."""
        return (self.first, *self.draft)


class Window:
    """The round that is decided next, and those behind it, which follow if their guesses are right.

    At most one of them is `kept`, the last: it was drafted and not sent.
    """

    def __init__(self) -> None:
        self._rounds: deque[Round] = deque()
        self.kept: Round | None = None
        self.num_behind_rows = 0
        """Rows sent behind a round that was not decided, so far."""
        self.num_stale_rows = 0
        """As many of these as were sent in vain."""

    @property
    def first(self) -> Round | None:
        """The round that is decided next; the first token has none, it comes from the prompt."""
        return self._rounds[0] if self._rounds else None

    @property
    def last(self) -> Round:
        """The round that was sent last."""
        return self._rounds[-1]

    @property
    def num_sent(self) -> int:
        """Rounds that wait for their decision."""
        return len(self._rounds)

    @property
    def draft(self) -> tuple[int, ...]:
        """That of the first round."""
        return self._rounds[0].draft if self._rounds else ()

    @property
    def undecided(self) -> tuple[int, ...]:
        """What was sent behind the text's last token."""
        return tuple(token for each in self._rounds for token in each.token_ids)[1:]

    def begin(self, first: Round) -> None:
        """A round for which nothing is under way."""
        self._rounds.append(first)

    def send_kept(self) -> Round:
        """What was kept is sent now, perhaps behind others."""
        assert self.kept is not None, "it was drafted"
        is_behind = bool(self._rounds)
        # Alone it waited to be sent, so its time says nothing of what drafts are worth.
        sent = self.kept if is_behind else replace(self.kept, started_s=None)
        self.kept = None
        self._rounds.append(sent)
        self.num_behind_rows += is_behind * len(sent.token_ids)
        return sent

    def has_nothing_behind(self) -> None:
        """The drafter found nothing to say behind the last round."""
        self._rounds[-1] = replace(self._rounds[-1], may_go_on=False)

    def decide(self, text: Sequence[int], num_accepted: int) -> tuple[Round, bool]:
        """The first round is over; whether the one behind it follows the text, as it is now."""
        over = self._rounds.popleft()
        behind = self._rounds[0] if self._rounds else self.kept
        is_whole = num_accepted == len(over.draft)
        return over, is_whole and behind is not None and behind.first == text[-1]

    def forget_all(self) -> None:
        """No round follows the text."""
        self._forget(0)

    def forget_behind(self, max_frame_tokens: int | None = None) -> None:
        """Only the first round is to be sent once more, perhaps with less of its draft."""
        self._forget(1)
        if self._rounds:
            most = None if max_frame_tokens is None else max_frame_tokens - 1
            first = self._rounds[0]
            self._rounds[0] = replace(first, draft=first.draft[:most], started_s=None)

    def _forget(self, num_left: int) -> None:
        while len(self._rounds) > num_left:
            self.num_stale_rows += len(self._rounds.pop().token_ids)
        self.kept = None


def until_stop(draft: Sequence[int], stop_token_ids: frozenset[int]) -> tuple[int, ...]:
    """The draft up to its first stop token; nothing can follow that."""
    for index, token in enumerate(draft):
        if token in stop_token_ids:
            return tuple(draft[: index + 1])
    return tuple(draft)
