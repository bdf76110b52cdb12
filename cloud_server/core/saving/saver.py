"""Whether a session is worth a copy in host memory, and how much the next step copies."""

from cloud_server.core.actions import Step, StepOutcome
from cloud_server.core.config import CoreConfig
from cloud_server.core.saving.homes import Homes
from cloud_server.core.saving.policy import CopyPace
from cloud_server.core.scheduling.pace import Pace
from cloud_server.core.session import Session

_TARGET_STEP_S = 0.25
"""Where no target is set."""

_SHARE_OF_TARGET = 8
"""A step copies for one part in so many of the target at the most."""

_SHARE_OF_LEAST_STEP = 2
"""Beside rows also for no longer than this part of the least step, which those who decode wait for:
their steps take half as long again."""

_LEAST_COPY_S = 0.002
"""Below that a piece costs more than it copies."""


class Saver:
    """The policy's numbers, from what steps and copies took."""

    def __init__(self, config: CoreConfig, homes: Homes, pace: Pace) -> None:
        self._row_bytes = config.rows.row_bytes
        self._most_copy_s = (config.target_step_s or _TARGET_STEP_S) / _SHARE_OF_TARGET
        self._homes = homes
        self._pace = pace
        self._copies = CopyPace(config.block_tokens, config.verify_tokens)

    def observe(self, step: Step, outcome: StepOutcome) -> None:
        """Learn from a step that ran."""
        self._copies.observe(step.num_copied_tokens, outcome.copy_s)

    def step_tokens(self, has_rows: bool) -> int:
        """How many positions the next step may copy, beside rows or without."""
        limit_s = self._most_copy_s
        if has_rows:
            least_s = self._pace.least_step_s / _SHARE_OF_LEAST_STEP
            limit_s = min(limit_s, max(_LEAST_COPY_S, least_s))
        return self._copies.step_tokens(limit_s)

    def can_save(self, session: Session) -> bool:
        """Whether a copy is worth it, could be made now, and could fit."""
        if not self._homes.is_copyable(session):
            return False
        num_tokens = session.cached_tokens
        run_s = self._pace.run_s(num_tokens)
        if not self._copies.is_worth(num_tokens, self._row_bytes, run_s):
            return False
        return self.copied_tokens(session) <= self.savable_tokens

    def is_away(self, session: Session) -> bool:
        """Whether a copy holds all of it, so that it can leave the engine at once."""
        return self._homes.is_away(session)

    @property
    def savable_tokens(self) -> int:
        """How much host memory new copies could have."""
        return self._homes.savable_tokens

    def copied_tokens(self, session: Session) -> int:
        """What a copy of a session takes of host memory."""
        return self._homes.copied_tokens(session)
