"""What a session asks of its driver, one action at a time, in order."""

from dataclasses import dataclass

from device_runtime.generation.request import Emission
from wire.messages import Want


@dataclass(frozen=True, slots=True)
class ComputeAndSend:
    """Run tokens through the input submodel and send their rows; answered by `on_sent`.

    `token_ids` are those of positions `[position, position + len(token_ids))`. A frame of a
    verification overtakes prefill chunks of other sessions.
    """

    epoch: int
    position: int
    token_ids: tuple[int, ...]
    want: Want
    is_verify: bool = False


@dataclass(frozen=True, slots=True)
class AwaitReply:
    """Wait for the reply to the frame named by (epoch, position); answered by `on_reply`."""

    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class FeedOutput:
    """Put the deep rows just received through the output layers; needs no answer."""

    position: int


@dataclass(frozen=True, slots=True)
class Score:
    """Look up how likely the prompt's own tokens are, for `PromptScores`; needs no answer.

    The deep rows just received, from `position` on, are followed by the tokens `next_ids`, one
    each. They go through the output layers on the way, as with `FeedOutput`.
    """

    position: int
    next_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choose:
    """Choose tokens from the deep rows just received, from the one at `position` on.

    The last `len(draft) + 1` rows give the target's choices after `draft[:0]`, `draft[:1]` and so
    on (`acceptance.walk`). Answered by `on_chosen`.
    """

    position: int
    draft: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """Guess at most `num_tokens` tokens, perhaps none; answered by `on_draft`.

    They follow the text and `undecided`, drafts that were sent and wait for their decision.
    """

    num_tokens: int
    undecided: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand decided tokens to the caller; needs no answer. With a finish reason, it is the last."""

    emission: Emission


@dataclass(frozen=True, slots=True)
class Reopen:
    """Take the session up again in the cloud, which may need a new socket and some patience.

    Answered by `on_reopened`, also when the cloud has lost the session and begins an empty one.
    """


Action = ComputeAndSend | AwaitReply | FeedOutput | Score | Choose | Draft | Emit | Reopen
