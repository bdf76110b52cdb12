"""The shapers of links that are opened together."""

import random

from bench.link.shaper import Shaper, directions
from bench.link.spec import LinkSpec
from bench.link.traces import load_trace


def shaper_pairs(spec: LinkSpec, num_links: int, seed: int) -> list[tuple[Shaper, Shaper]]:
    """Uplink and downlink of each link; no two draw the same numbers.

    Links with the same trace begin at different places of it, evenly apart, since devices that all
    lose their signal at once are not what the recordings show.

    Raises:
        LinkSpecError: the trace does not exist.
    """
    trace = None if spec.trace is None else load_trace(spec.trace)
    pairs = []
    for number in range(num_links):
        recorded = None
        if trace is not None:
            offset_s = trace.end_s * number / num_links
            recorded = (trace.uplink(offset_s), trace.downlink(offset_s))
        up, down = (
            # Text, since neighbouring integers may begin alike.
            Shaper(direction, random.Random(f"{seed} {number} {name}").random)
            for name, direction in zip(("up", "down"), directions(spec, recorded), strict=True)
        )
        pairs.append((up, down))
    return pairs
