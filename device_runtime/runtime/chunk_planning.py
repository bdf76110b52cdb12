"""Which planner cuts a prompt, by the settings."""

from collections.abc import Callable

from chunking.bounded_planner import BoundedPlanner
from chunking.chooser import ChunkChooser
from chunking.estimates import Estimates
from chunking.paper_planner import PaperPlanner
from chunking.planner import FixedSizePlanner, Planner
from device_runtime.config import DeviceConfig


def chunk_chooser(
    config: DeviceConfig,
    estimates: Callable[[], Estimates],
    clock: Callable[[], float],
    max_frame_tokens: int,
) -> ChunkChooser:
    """The planner of one prompt; `max_frame_tokens` bounds its chunks."""
    return ChunkChooser(_planner(config), estimates, clock, max_frame_tokens)


def _planner(config: DeviceConfig) -> Planner:
    match config.chunking:
        case "adaptive":
            return BoundedPlanner()
        case "paper":
            return PaperPlanner()
        case "fixed":
            return FixedSizePlanner(config.chunk_tokens or None)
