"""How long computing takes: the device's parts, a cloud's step, and what shells add to both.

A table is either measured (`calibrate.py`) or computed from a machine's rates (`hardware.py`).
"""

from dataclasses import dataclass
from typing import Protocol

from chunking.cost import LinearTime
from cloud_server.core.actions import Step

NO_TIME = LinearTime(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """A device's engine. `input` over the rows run, `output` over the rows turned into logits.

    A draft takes `draft_call_s` and `draft_step_s` for each token the draft model looks at, the
    one it is not sure of included; `adapter_row_s` is for prompt rows that it has not seen.
    """

    input: LinearTime
    output: LinearTime
    draft_call_s: float
    draft_step_s: float
    adapter_row_s: float = 0.0

    def scaled(self, factor: float) -> "DeviceTimes":
        """The same device, `factor` times as slow."""
        return DeviceTimes(
            LinearTime(self.input.fixed_s * factor, self.input.token_s * factor),
            LinearTime(self.output.fixed_s * factor, self.output.token_s * factor),
            self.draft_call_s * factor,
            self.draft_step_s * factor,
            self.adapter_row_s * factor,
        )


class StepTime(Protocol):
    """g: how long an engine takes for a step, in all of its pipeline stages together."""

    def of(self, step: Step) -> float:
        """Seconds for the forward of a step with items."""
        ...


@dataclass(frozen=True, slots=True)
class Overheads:
    """What is neither computing nor the link: HTTP, event loops, threads handing over, sockets.

    `request_s` before a generation begins, `emission_s` after each piece until it goes on; of each
    frame `frame_s` in all, half on its way up and half down; `thread_s` per piece of work on the
    device's engine thread; `hand_over_s` between two stages of a pipeline.
    """

    request_s: float = 0.0
    emission_s: float = 0.0
    frame_s: float = 0.0
    thread_s: float = 0.0
    hand_over_s: float = 0.0


NO_OVERHEADS = Overheads()
