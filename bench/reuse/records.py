"""What the measuring process and the device's end of the link tell each other, line by line."""

import msgspec

NONE = "no reuse"
KEPT = "kept"
CUT = "kept, its socket cut before each turn"
RESTARTED = "kept, the device restarted before each turn"
ARMS = (NONE, KEPT, CUT, RESTARTED)

APART = "no reuse, two at once"
TOGETHER = "two at once"


class Talk(msgspec.Struct):
    """One conversation: what is said in each turn beside the answers, as token ids."""

    turns: list[list[int]]


class Job(msgspec.Struct):
    """All that is asked at the device's end."""

    bundle: str
    """The device's."""
    cloud_url: str
    talks: list[Talk]
    answer_tokens: int
    pause_s: float
    """Before each turn but the first, as somebody reads and writes."""
    folder: str
    """Where kept sessions outlive the device."""


class Answered(msgspec.Struct):
    """A turn, or one of two requests at once, by one arm."""

    arm: str
    talk: int
    turn: int
    """From 0; of two at once, which of them."""
    first_token_s: float
    prompt_tokens: int
    sent_tokens: int
    """Tokens of the prompt that went up."""
    cached_tokens: int
    answer: list[int]
