"""How many rows of prompts a step may have while others decode.

Somebody who decodes is away between a Reply and his next frame, for as long as link and device
take. Alone he then waits for `quiet`, until a step with his rows has ended, and his round takes
`away + quiet`. It lasts half as long again at the most when from frame to Reply at most

    L = away / 2 + 3 quiet / 2

pass. So a step with his rows ends when L has passed since his frame came, at the latest, and
takes three quarters of L where he did not wait; and one without ends when the first of those who
are away is expected back: it then costs nobody anything. Where nobody's return can be foretold it
takes half of `away + quiet`, so that who comes back early has what his own rows take left of L.

Prompts go on in any case, with a tenth of what the engine could do at the least: of two steps that
verify and follow each other, the second may take half as long again as its verifications alone, and
one without them half as long again as with a single row.
"""

from collections.abc import Collection

from cloud_server.core.actions import SequenceHandle
from cloud_server.core.scheduling.step_model import StepModel

_ROUND_S = 1.0
"""Who is away for longer is not decoding, or so far away that a step's time does not matter."""

_LEAST_BACK_S, _BACK_AWAYS = 0.05, 3
"""Who has not come back after so long and so many usual absences decodes no more: the next prompt
of somebody whose answer has ended goes on at full speed."""

_FIRST_TOKENS = 16
"""Of prompts beside those who decode, on an engine that nothing is known of."""

_CHANGE = 4
"""Steps have no more than so many times the rows of prompts that any had before."""

_OWN_SHARE = 1.5
"""A step takes so many times what it would without prompts, where they had none before it."""

_FILLED_SHARE = 0.75
"""Of L, in a step whose verifications did not wait; the rest is for steps that take longer than
was foretold."""

_RIDING_SHARE = 0.1
"""Of what a step takes, that rows of who has reached his rate may add to it."""

_RIDING_CHANGE = 0.02
"""By which what they add is believed more, or less, after each step that had some: late steps,
however late, are as good as one."""

_MOST_BELIEVED = 0.2
"""So few good steps make them welcome again."""

_LEAST_ROW_S = 1e-7
"""Of one row, however cheap it seems."""

_PAST_WEIGHT = 0.8
_SLOW_WEIGHT = 0.98
"""Of the past against a longer absence: who is near sets the pace, not who is far."""


class Beside:
    """Learns what rounds and steps take, and says how many rows of prompts a step may have.

    `target_s` is the longest a step should take in any case, 0 for no such rule.
    """

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self._model = StepModel()
        self._away_s: float | None = None
        self._quiet_s: float | None = None
        self._seen_s: dict[SequenceHandle, float] = {}
        """Who decodes, and when that was last seen; nobody whose latest frame is of a prompt."""
        self._came_s: dict[SequenceHandle, float] = {}
        """Of those, who waits, and since when."""
        self._prompts_until_s = 0.0
        """When the latest step with rows of prompts ended."""
        self._has_verified = False
        """Whether the latest step verified somebody's rows."""
        self._tried_tokens = _FIRST_TOKENS // _CHANGE
        self._riding_share = 0.0
        """What rows of who yields have added to steps lately, in half of the cases at the most."""

    def note_round(self, handle: SequenceHandle, away_s: float | None, now: float) -> None:
        """A frame to verify came; its session had been without work for so long, or had some."""
        self._seen_s[handle] = now
        if away_s is not None or handle not in self._came_s:
            self._came_s[handle] = now
        if away_s is None or away_s > _ROUND_S:
            return
        past_s = away_s if self._away_s is None else self._away_s
        weight = _SLOW_WEIGHT if away_s > past_s else _PAST_WEIGHT
        self._away_s = weight * past_s + (1 - weight) * away_s

    def forget(self, handle: SequenceHandle) -> None:
        """A session ended, or has sent rows of a prompt: it does not wait for rounds."""
        self._seen_s.pop(handle, None)
        self._came_s.pop(handle, None)

    def observe(
        self,
        verified: Collection[SequenceHandle],
        num_verified: int,
        num_prompt: int,
        seconds: float,
        now: float,
        num_riding: int = 0,
    ) -> None:
        """Learn from a step that ended now: whose rows it verified, how many these were, and how
        many were of prompts; `num_riding` are those of others who yield, counted in neither."""
        if num_riding:
            self._observe_riding(num_verified, num_prompt, num_riding, seconds)
        else:
            self._model.observe(num_verified, num_prompt, seconds)
        self._tried_tokens = max(self._tried_tokens, num_prompt)
        self._has_verified = bool(verified)
        came_s = [self._came_s.pop(one) for one in verified if one in self._came_s]
        self._seen_s.update((one, now) for one in verified if one in self._seen_s)
        if num_prompt:
            self._prompts_until_s = now
        elif came_s and min(came_s) >= self._prompts_until_s:
            cloud_s = now - sum(came_s) / len(came_s)
            past_s = cloud_s if self._quiet_s is None else self._quiet_s
            self._quiet_s = _PAST_WEIGHT * past_s + (1 - _PAST_WEIGHT) * cloud_s

    def prompt_tokens(
        self, verified: Collection[SequenceHandle], num_verified: int, now: float
    ) -> int | None:
        """The rows of prompts that the next step may have beside those that it verifies; None for
        as many as fit: nobody decodes."""
        if self._target_s == 0 or not self._decodes(now):
            return None
        if not self._model.is_known:
            return _FIRST_TOKENS
        least_s = 0.0
        if not verified:
            limit_s = self._until_back_s(now)
            least_s = _OWN_SHARE * self._model.seconds(0, 1)
        else:
            limit_s = self._own_s(verified, num_verified, now)
            if self._has_verified:
                least_s = _OWN_SHARE * self._model.seconds(num_verified, 0)
        limit_s = max(min(limit_s, self._target_s), least_s)
        fitting = self._model.num_prompt_rows(num_verified, limit_s)
        return max(min(fitting, _CHANGE * self._tried_tokens), 1 if least_s else 0)

    def riding_tokens(self, num_verified: int, num_prompt: int) -> int:
        """How many more rows a step with these may have and hardly take longer."""
        if self._riding_share > _RIDING_SHARE:
            return 0
        return self._riding_tokens(num_verified, num_prompt)

    def _riding_tokens(self, num_verified: int, num_prompt: int) -> int:
        if not self._model.is_known:
            return 0
        alone_s = self._model.seconds(num_verified, num_prompt)
        verified_s = self._model.seconds(num_verified + 1, num_prompt) - alone_s
        prompt_s = self._model.seconds(num_verified, num_prompt + 1) - alone_s
        return int(_RIDING_SHARE * alone_s / max(verified_s, prompt_s, _LEAST_ROW_S))

    def _observe_riding(
        self, num_verified: int, num_prompt: int, num_riding: int, seconds: float
    ) -> None:
        """A further sequence costs more than its rows, on some engines, which the line over rows
        does not show. Steps with more rows than were to ride say nothing of that, nor do those
        before it is known what a step takes without."""
        if not self._model.is_known:
            return
        if num_riding > max(1, self._riding_tokens(num_verified, num_prompt)):
            return
        added_share = seconds / self._model.seconds(num_verified, num_prompt) - 1
        change = _RIDING_CHANGE if added_share > self._riding_share else -_RIDING_CHANGE
        self._riding_share = min(max(self._riding_share + change, 0.0), _MOST_BELIEVED)

    def _decodes(self, now: float) -> bool:
        """Whether somebody does."""
        if not self._seen_s:
            return False
        back_s = min(_ROUND_S, _LEAST_BACK_S + _BACK_AWAYS * (self._away_s or 0.0))
        return now - max(self._seen_s.values()) <= back_s

    def _until_back_s(self, now: float) -> float:
        """What a step without verifications may take."""
        away_s, quiet_s = self._away_s or 0.0, self._quiet_s or 0.0
        back_s = [seen_s + away_s - now for one, seen_s in self._seen_s.items()]
        return min((after_s for after_s in back_s if after_s > 0), default=(away_s + quiet_s) / 2)

    def _own_s(self, verified: Collection[SequenceHandle], num_verified: int, now: float) -> float:
        """What a step that verifies these may take."""
        alone_s = self._model.seconds(num_verified, 0)
        quiet_s = alone_s if self._quiet_s is None else self._quiet_s
        cloud_s = (self._away_s or 0.0) / 2 + 1.5 * quiet_s
        waited_s = now - min((self._came_s.get(one, now) for one in verified), default=now)
        return min(max(_FILLED_SHARE * cloud_s, _OWN_SHARE * alone_s), cloud_s - waited_s)
