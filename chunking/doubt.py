"""What a cut costs at worst, should the estimates be wrong.

A cut is chosen for what it saves, and what it saves is predicted: overlap of stages that may turn
out short, bought with a step's fixed time per chunk that may turn out long. A planner that trusts
its estimates can so lose more than there was to gain.
"""

from functools import lru_cache
from itertools import product

from chunking.cost import LinearTime, PipelineTimes, ttft_s


def is_safe(
    cut: tuple[int, ...],
    instead: tuple[int, ...],
    times: PipelineTimes,
    doubt: tuple[float, float],
) -> bool:
    """Whether `cut` is nowhere slower than `instead` by more than the share `doubt[1]`.

    "Nowhere": for whatever times, each within the factor `doubt[0]` of its estimate and independent
    of the others, if `instead` is one chunk. For a cut's time is a maximum of sums of these times,
    so convex in them, and one chunk's is linear; their difference is largest at a corner of what is
    possible, and there are 2**5 (of the delay, which both pay, the smallest is worst).
    """
    factor, share = doubt
    return all(
        ttft_s(cut, wrong) <= (1.0 + share) * ttft_s(instead, wrong)
        for wrong in _corners(times, factor)
    )


@lru_cache(maxsize=8)
def _corners(times: PipelineTimes, factor: float) -> tuple[PipelineTimes, ...]:
    """The times as wrong as they may be, in every combination."""
    device, cloud = times.device, times.cloud
    sides = (1.0 / factor, factor)
    # Longer steps first: that is where cuts fail.
    return tuple(
        PipelineTimes(
            LinearTime(device.fixed_s * device_fixed, device.token_s * device_token),
            times.uplink_token_s * uplink,
            LinearTime(cloud.fixed_s * cloud_fixed, cloud.token_s * cloud_token),
            times.delay_s / factor,
        )
        for cloud_fixed, device_fixed, device_token, uplink, cloud_token in product(
            sides[::-1], sides[::-1], sides, sides, sides
        )
    )
