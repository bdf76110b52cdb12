"""Whether rows should be coded for the link: fewer bytes against the time that coding takes.

Coding is a part of the stages that are there: the device codes a chunk before it goes up, and the
cloud makes its rows plain again before it computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chunking.cost import LinearTime, PipelineTimes, ttft_s

DECODING_SHARE = 0.5
"""Of the time that coding takes, what the other side takes to undo it: measured were 0.4 to 0.5.
Both sides are taken to be as fast."""

_USUAL_PROMPT = (64,) * 8
"""The cut by which whole prompts are judged: all stages are busy in it, and each has its turn."""


@dataclass(frozen=True, slots=True)
class Coding:
    """What a codec costs and saves: `time` to code so many rows, and which share of bytes is left.

    `is_always` is set where it is used whatever it brings.
    """

    time: LinearTime
    share: float
    is_always: bool = False

    def applied(self, plain: PipelineTimes) -> PipelineTimes:
        """The stages when every chunk is coded."""
        return PipelineTimes(
            device=_sum(plain.device, self.time),
            uplink_token_s=plain.uplink_token_s * self.share,
            cloud=_sum(plain.cloud, self._decoding),
            delay_s=plain.delay_s,
        )

    def suits_prompts(self, plain: PipelineTimes) -> bool:
        """Whether the chunks of prompts should be coded."""
        return self.is_always or self._is_sooner(_USUAL_PROMPT, plain)

    def suits_verification(
        self, num_tokens: int, plain: PipelineTimes, reply_token_s: float
    ) -> bool:
        """Whether a frame that is waited for should be, whose answer has as many rows.

        `reply_token_s` are the seconds that the link takes for a row on its way back.
        """
        both = replace(plain, uplink_token_s=plain.uplink_token_s + reply_token_s)
        # The answer is coded and undone as well.
        twice = replace(self, time=_sum(self.time, self.time))
        return self.is_always or twice._is_sooner((num_tokens,), both)

    @property
    def _decoding(self) -> LinearTime:
        return LinearTime(DECODING_SHARE * self.time.fixed_s, DECODING_SHARE * self.time.token_s)

    def _is_sooner(self, chunks: Sequence[int], plain: PipelineTimes) -> bool:
        return ttft_s(chunks, self.applied(plain)) < ttft_s(chunks, plain)


def _sum(one: LinearTime, other: LinearTime) -> LinearTime:
    return LinearTime(one.fixed_s + other.fixed_s, one.token_s + other.token_s)
