"""What each arm does differently: the table of live runs, in the settings of production objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.arms import Where, find_arm
from cloud_server.core.config import CoreConfig
from device_runtime.config import DeviceConfig

MEDUSA = "u-medusa"
_TREE_FRAME_TOKENS = 65
"""A tree is larger than a draft, and still decoding work."""

_WINDOW_FRAMES = 4
"""As the cloud chooses them (`cloud_server.core_settings`)."""


@dataclass(frozen=True, slots=True)
class SimArm:
    """One method.

    `cloud` has settings of the cloud's core, `device` those of the runtime. With
    `drafts_to_the_end` no policy shortens drafts.
    """

    name: str
    where: Where
    device: DeviceConfig
    cloud: Mapping[str, Any] = field(default_factory=dict)
    returns_all_rows: bool = False
    drafts_to_the_end: bool = False

    @property
    def has_drafts(self) -> bool:
        """Whether guesses are drawn from the table."""
        return self.device.drafter != "none"

    def core(self, config: CoreConfig) -> CoreConfig:
        """A cloud's settings as this arm has them."""
        frame_tokens = self.cloud.get("max_frame_tokens", config.max_frame_tokens)
        frame_tokens = min(frame_tokens, config.max_context_tokens)
        window_tokens = max(config.credit_window_tokens, _WINDOW_FRAMES * frame_tokens)
        frames = {"max_frame_tokens": frame_tokens, "credit_window_tokens": window_tokens}
        return replace(config, **{**self.cloud, **frames})


def sim_arm(name: str) -> SimArm:
    """The arm of that name.

    Raises:
        KeyError: there is none.
    """
    # What goes up has a tree's rows and brings what a tree brings, by the acceptance table.
    is_tree = name == MEDUSA
    arm = find_arm("u-shape" if is_tree else name)
    drafts = is_tree or arm.device.get("drafter") != "none"
    # As in live runs: prompts of one run have nothing in common, and sessions that are kept would
    # only take capacity.
    device = DeviceConfig(bundle=Path(), kept_sessions=0)
    device = replace(device, **{**arm.device, "drafter": "adapter" if drafts else "none"})
    if not is_tree:
        return SimArm(name, arm.where, device, arm.cloud)
    cloud = {**arm.cloud, "verify_tokens": _TREE_FRAME_TOKENS}
    device = replace(device, pipelining="off")
    return SimArm(name, "split", device, cloud, drafts_to_the_end=True)
