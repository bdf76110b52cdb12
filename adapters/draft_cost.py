"""What drafting costs on a device: measured, or assumed."""

from typing import Self

import msgspec


class DraftCost(msgspec.Struct, frozen=True, kw_only=True):
    """What drafting costs, in units of one round without a draft.

    The defaults are assumed: of a round of 50 ms, 2.5 ms per draft step and 0.5 ms per row.
    """

    step: float = 0.05
    """One run of the draft model on the device."""
    row: float = 0.01
    """One more row sent and verified; never measured."""
    step_ms: float | None = None
    """What a step was measured at; None: it was not, or in older cards."""
    round_ms: float | None = None
    """How long a round was said to be, where the step was measured."""

    @classmethod
    def measured(cls, step_s: float, round_s: float) -> Self:
        """That of a step which was measured, in a round of a stated length."""
        step_ms, round_ms = 1e3 * step_s, 1e3 * round_s
        return cls(step=step_s / round_s, step_ms=step_ms, round_ms=round_ms)
