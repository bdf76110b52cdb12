"""What each arm does differently: the table of live runs, in the settings of production objects."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench.arms import Where, find_arm
from cloud_server.core.config import CoreConfig
from device_runtime.config import DeviceConfig

Drafts = Literal["adapter", "none"]

MEDUSA = "u-medusa"

# As in live runs: prompts of one run have nothing in common, and sessions that are kept would
# only take capacity.
_DEVICE = DeviceConfig(bundle=Path(), kept_sessions=0)

_VERIFY_TOKENS = 32
_WINDOW_FRAMES = 4
"""As the cloud chooses them (`cloud_server.core_settings`)."""


@dataclass(frozen=True, slots=True)
class SimArm:
    """One method.

    `cloud` has settings of the cloud's core, `device` those of the runtime. `drafts` says whose
    table is drawn from. With `drafts_to_the_end` no policy shortens drafts.
    """

    name: str
    where: Where
    drafts: Drafts
    device: DeviceConfig
    cloud: Mapping[str, Any] = field(default_factory=dict)
    returns_all_rows: bool = False
    drafts_to_the_end: bool = False

    def core(self, config: CoreConfig) -> CoreConfig:
        """A cloud's settings as this arm has them."""
        frame_tokens = self.cloud.get("max_frame_tokens", config.max_frame_tokens)
        budget_tokens = self.cloud.get("step_budget_tokens", config.step_budget_tokens)
        frame_tokens = min(frame_tokens, config.max_context_tokens)
        return replace(
            config,
            max_frame_tokens=frame_tokens,
            credit_window_tokens=max(config.credit_window_tokens, _WINDOW_FRAMES * frame_tokens),
            step_budget_tokens=budget_tokens,
            target_step_s=self.cloud.get("target_step_s", config.target_step_s),
            verify_tokens=max(config.verify_tokens, self.cloud.get("verify_tokens", 1)),
        )


def sim_arm(name: str) -> SimArm:
    """The arm of that name.

    Raises:
        KeyError: there is none.
    """
    if name == MEDUSA:
        plain = find_arm("u-shape")
        # What goes up has a tree's rows and brings what a tree brings, by the acceptance table.
        # A tree is larger than a draft, and still decoding work.
        cloud = {**plain.cloud, "verify_tokens": 2 * _VERIFY_TOKENS + 1}
        tree = _settings({**plain.device, "drafter": "adapter", "draft_ahead": "off"})
        return SimArm(name, "split", "adapter", tree, cloud, drafts_to_the_end=True)
    arm = find_arm(name)
    device = _settings(arm.device)
    drafts: Drafts = "none" if device.drafter == "none" else "adapter"
    return SimArm(name, arm.where, drafts, device, arm.cloud)


def _settings(changes: Mapping[str, Any]) -> DeviceConfig:
    return replace(_DEVICE, **changes)
