"""Cuts that keep the slowest stage busy: growing from the front, shrinking to the end.

The slowest stage per token (the bottleneck) sets the pace. A first chunk of any size lets it wait
while the stages before it work on that chunk, and a last chunk of any size adds the stages behind
it. So the ends are as large as a slack in seconds allows. From the front, each next chunk is the
largest that reaches the bottleneck before it runs dry; from the end, going backwards, each chunk
is the largest that the stages behind can finish while the bottleneck takes the one after it.
Sizes grow geometrically from both ends, so a prompt takes O(log tokens) chunks plus the cap's.
"""

from collections.abc import Iterator
from enum import Enum

from chunking.cost import Backlog, PipelineTimes

_MAX_RAMP_CHUNKS = 12
"""A ramp that has not reached the cap by then grows too slowly to be followed further."""

_MAX_EXTRA_CHUNKS = 12
"""Chunks beyond those that the cap asks for."""


class Bottleneck(Enum):
    """The stage that takes longest per token."""

    DEVICE = "device"
    UPLINK = "uplink"
    CLOUD = "cloud"

    @classmethod
    def of(cls, times: PipelineTimes) -> "Bottleneck":
        """The uplink wins ties."""
        slowest_s = max(times.device.token_s, times.uplink_token_s, times.cloud.token_s)
        if slowest_s == times.uplink_token_s:
            return cls.UPLINK
        return cls.CLOUD if slowest_s == times.cloud.token_s else cls.DEVICE


def hump_chunks(
    num_tokens: int,
    times: PipelineTimes,
    backlog: Backlog,
    max_chunk_tokens: int,
    slack_s: tuple[float, float],
) -> tuple[int, ...] | None:
    """The fewest chunks of this form, `slack_s` being spent at the front and at the end.

    `None` when the ramps grow so slowly that another form is better.
    """
    head_s, tail_s = slack_s
    head = _ramp(_growing(times, backlog, head_s), num_tokens, max_chunk_tokens)
    tail = _ramp(_shrinking(times, tail_s), num_tokens, max_chunk_tokens)
    least = -(-num_tokens // max_chunk_tokens)
    for num_chunks in range(least, least + _MAX_EXTRA_CHUNKS):
        largest = [
            min(_at(head, index), _at(tail, num_chunks - 1 - index)) for index in range(num_chunks)
        ]
        excess = sum(largest) - num_tokens
        if excess >= 0:
            return _trimmed(largest, excess)
    return None


def growing_tail_s(times: PipelineTimes) -> float | None:
    """What the smallest last chunk adds from which sizes grow backwards, in seconds.

    A chunk's step has its fixed time, so below some size the cloud takes longer for a chunk than
    the uplink for the next one, and the ramp from such an end does not rise. `None` if none does,
    or if another stage than the uplink is the bottleneck.
    """
    cloud, spare_s = times.cloud, times.uplink_token_s - times.cloud.token_s
    if Bottleneck.of(times) is not Bottleneck.UPLINK or spare_s <= 0.0:
        return None
    return cloud.token_s * cloud.fixed_s / spare_s


def uniform_chunks(num_tokens: int, num_chunks: int) -> tuple[int, ...]:
    """Chunks that differ by one token at most, the larger ones first."""
    size, num_larger = divmod(num_tokens, num_chunks)
    return (size + 1,) * num_larger + (size,) * (num_chunks - num_larger)


def _growing(times: PipelineTimes, backlog: Backlog, slack_s: float) -> Iterator[float]:
    """Sizes from the front; the first one may keep the bottleneck waiting by `slack_s`."""
    bottleneck = Bottleneck.of(times)
    device, uplink_s = times.device, times.uplink_token_s
    while True:
        first = backlog.after(1, times)
        computed_s = backlog.device_s + device.fixed_s
        if bottleneck is Bottleneck.UPLINK:
            latest_s = max(backlog.uplink_s, first.device_s) + slack_s
            size = _quotient(latest_s - computed_s, device.token_s)
        elif bottleneck is Bottleneck.CLOUD:
            latest_s = max(backlog.cloud_s, first.uplink_s) + slack_s
            size = min(
                _quotient(latest_s - computed_s, device.token_s + uplink_s),
                _quotient(latest_s - backlog.uplink_s, uplink_s),
            )
        else:
            size = float("inf")
        yield size
        if size == float("inf"):
            continue
        backlog = backlog.after(max(1, int(size)), times)
        slack_s = 0.0


def _shrinking(times: PipelineTimes, slack_s: float) -> Iterator[float]:
    """Sizes from the end backwards; the last chunk adds at most `slack_s` behind the bottleneck."""
    bottleneck = Bottleneck.of(times)
    uplink_s, cloud = times.uplink_token_s, times.cloud
    if bottleneck is Bottleneck.UPLINK:
        size = 1.0 + _quotient(slack_s, cloud.token_s)
    elif bottleneck is Bottleneck.DEVICE:
        size = 1.0 + _quotient(slack_s, uplink_s + cloud.token_s)
    else:
        size = float("inf")
    while True:
        yield size
        if size == float("inf"):
            continue
        if bottleneck is Bottleneck.UPLINK:
            # Where the fixed time is longer than the upload, the quotient may be -infinity.
            size = max(1.0, _quotient(uplink_s * int(size) - cloud.fixed_s, cloud.token_s))
        else:
            step_s = times.device.of(int(size))
            to_cloud = _quotient(step_s - cloud.fixed_s, cloud.token_s)
            size = max(1.0, min(_quotient(step_s, uplink_s), to_cloud))


def _quotient(seconds: float, per_token_s: float) -> float:
    """Tokens in so many seconds; any number where a token takes none."""
    return seconds / per_token_s if per_token_s > 0.0 else float("inf")


def _ramp(sizes: Iterator[float], num_tokens: int, max_chunk_tokens: int) -> list[int]:
    """Whole sizes up to the cap; what follows the last is of its size."""
    chunks: list[int] = []
    covered = 0
    while covered < num_tokens and len(chunks) < _MAX_RAMP_CHUNKS:
        size = max(1, int(min(next(sizes), max_chunk_tokens)))
        chunks.append(size)
        covered += size
        if size == max_chunk_tokens:
            break
    return chunks


def _at(ramp: list[int], index: int) -> int:
    return ramp[min(index, len(ramp) - 1)]


def _trimmed(chunks: list[int], excess: int) -> tuple[int, ...]:
    """The chunks less `excess` tokens, the largest ones cut down to one level."""
    kept = sum(chunks) - excess
    level, num_above = 0, len(chunks)
    for size in sorted(chunks):
        level = kept // num_above
        if size > level:
            break
        kept -= size
        num_above -= 1
    spare = kept - level * num_above
    trimmed: list[int] = []
    for size in chunks:
        is_above = size > level
        trimmed.append(min(size, level + (is_above and spare > 0)))
        spare -= is_above and spare > 0
    return tuple(size for size in trimmed if size > 0)
