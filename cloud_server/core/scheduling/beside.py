"""How long a step with rows of prompts should take while others decode.

Somebody who decodes is away between a Reply and his next frame, for as long as link and device
take. When he comes back beside a prompt, he waits for the step that runs, and then for his own,
which has prompt rows too. With steps of S seconds his round takes up to `away + 2 S`, where it took
`away + q` when q was a step of those who decode alone. It so lasts at most half as long again when
`S = away / 4 + 3 q / 4`; those who are hardly away and share every step need `S = 1.5 q`, which is
the least, so that a prompt has a third of the engine. In between rounds take up to `away + 3 q`.
"""

from collections.abc import Iterable

from cloud_server.core.actions import SequenceHandle

_ROUND_S = 1.0
"""Who is away for longer is not decoding, or so far away that a step's time does not matter."""

_LEAST_BACK_S, _BACK_AWAYS = 0.05, 3
"""Who has not come back after so long and so many usual absences decodes no more: the next prompt
of somebody whose answer has ended goes on at full speed."""

_FIRST_TOKENS = 16
"""Of prompts beside those who decode, on an engine that nothing is known of."""

_CHANGE = 4
"""It grows and shrinks by this factor at most from one step to the next."""

_PAST_WEIGHT = 0.8
_SLOW_WEIGHT = 0.98
"""Of the past against a longer absence: who is near sets the pace, not who is far."""


class Beside:
    """Learns what rounds and steps take, and steers the rows up to which prompts fill a step.

    `target_s` is the longest a step should take in any case, 0 for no such rule.
    """

    def __init__(self, target_s: float, most_tokens: int) -> None:
        self._target_s = target_s
        self._most_tokens = most_tokens
        self._away_s: float | None = None
        self._quiet_s: float | None = None
        self._seen_s: dict[SequenceHandle, float] = {}
        """Who decodes, and when that was last seen; nobody whose latest frame is of a prompt."""
        self._tokens = min(_FIRST_TOKENS, most_tokens)

    def note_round(self, handle: SequenceHandle, away_s: float | None, now: float) -> None:
        """A frame to verify came; its session had been without work for so long, or had some."""
        self._seen_s[handle] = now
        if away_s is None or away_s > _ROUND_S:
            return
        past_s = away_s if self._away_s is None else self._away_s
        weight = _SLOW_WEIGHT if away_s > past_s else _PAST_WEIGHT
        self._away_s = weight * past_s + (1 - weight) * away_s

    def forget(self, handle: SequenceHandle) -> None:
        """A session ended, or has sent rows of a prompt: it does not wait for rounds."""
        self._seen_s.pop(handle, None)

    def observe(
        self,
        verified: Iterable[SequenceHandle],
        num_verified: int,
        num_chunk_tokens: int,
        seconds: float,
        now: float,
    ) -> None:
        """Learn from a step that ended now: whose rows it verified, how many these were, and how
        many were of prompts."""
        self._seen_s.update((one, now) for one in verified if one in self._seen_s)
        if num_chunk_tokens:
            self._steer(num_verified + num_chunk_tokens, seconds)
        elif num_verified:
            past_s = seconds if self._quiet_s is None else self._quiet_s
            self._quiet_s = _PAST_WEIGHT * past_s + (1 - _PAST_WEIGHT) * seconds

    def step_tokens(self, now: float) -> int | None:
        """The rows up to which prompts may fill the next step; None while nobody decodes, or nobody
        ever has alone."""
        if self._target_s == 0 or self._quiet_s is None or not self._seen_s:
            return None
        back_s = min(_ROUND_S, _LEAST_BACK_S + _BACK_AWAYS * (self._away_s or 0.0))
        return self._tokens if now - max(self._seen_s.values()) <= back_s else None

    @property
    def limit_s(self) -> float:
        """How long a step should take while somebody decodes."""
        quiet_s = self._quiet_s or 0.0
        step_s = (self._away_s or 0.0) / 4 + 3 * quiet_s / 4
        # Where steps of those who decode are near the target by themselves, prompts still go on.
        return max(min(step_s, self._target_s), 1.5 * quiet_s)

    def _steer(self, num_tokens: int, seconds: float) -> None:
        if self._quiet_s is None:
            return
        limit_s, before = self.limit_s, self._tokens
        if seconds > limit_s:
            fitting = max(int(num_tokens * limit_s / seconds), before // _CHANGE, 1)
            self._tokens = min(before, fitting)
        elif 2 * num_tokens >= before:
            room = _CHANGE if seconds * _CHANGE <= limit_s else limit_s / seconds
            self._tokens = max(before, min(int(num_tokens * room), self._most_tokens))
