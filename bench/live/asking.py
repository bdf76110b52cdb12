"""What the client process is told, and what it tells: one JSON document in, JSON lines out."""

import msgspec

from bench.arms import Where
from bench.records import RequestRecord


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request, `at_s` after the run's start (not used when closed)."""

    number: int
    prompt: str
    max_tokens: int
    at_s: float = 0.0
    category: str = ""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of one device's user, in their order.

    Closed: the next is asked when the last answer is there. Request n is sampled with `seed` plus
    n, so that every arm is asked for the same text. `warm_up` is asked before, one by one, and not
    told. The timeline is kept of requests whose number is in `timelines`. With `is_chat` a prompt
    is a user's message in a conversation, else a text to go on with.
    """

    device: int
    warm_up: list[Ask]
    asks: list[Ask]
    is_closed: bool
    temperature: float
    seed: int
    timelines: list[int]
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    is_chat: bool = False


class Job(msgspec.Struct, frozen=True):
    """What the client process is to ask the endpoint `url`.

    What crosses the link, and so counts as bytes up and down, depends on `where` the model runs.
    """

    url: str
    where: Where
    load: Load


class Begin(msgspec.Struct, frozen=True):
    """Told to all clients of a run once they are warm: the run starts at `unix_s`.

    That is the wall clock, which all processes of this machine share. With `num_asks` the client
    asks its next requests, so many, and waits for another `Begin`; that is for closed loads.
    """

    unix_s: float
    num_asks: int | None = None


class Warm(msgspec.Struct, frozen=True, tag="warm"):
    """The endpoint answers and the warm-up is over; the client waits for `Begin`."""


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """One request is over."""

    record: RequestRecord


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """All that were asked since the last `Begin` are."""

    unix_s: float


Told = Warm | Answered | Ended
