"""The arms: which process runs at which end of the link, and with which settings.

All of them are this project's own programs, so that only the method differs. What every arm has in
common is not in this table: one thread per device, no kept sessions, and of a prompt only the last
row comes back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Where = Literal["split", "cloud", "device"]
"""Who runs what. split: the middle layers in the cloud, the rest on the device, and hidden states
cross the link. cloud: all of it in the cloud, and text crosses. device: all of it on the device,
and nothing crosses."""

ONE_SHOT_TOKENS = 4096
"""Rows of one frame and of one step in arms that send a prompt whole; none here is longer."""

SARATHI_CHUNK_TOKENS = 128
"""The cloud's fixed budget in u-sarathi. The paper does not say its own; 128 is among the sizes
that Sarathi-Serve (arXiv:2403.02310) measures, and larger than any decode batch here."""

NO_ADAPTER = "drafts out of its own text: there is no adapter for this model"
WITH_ADAPTER = "drafts by the adapter and, where that pays more, out of its own text"
"""A cell's notes of an arm that uses all drafters there are."""

WARM_UP_TOKENS = 12
"""Tokens of each answer that is asked for before anything is measured."""


@dataclass(frozen=True)
class Arm:
    """One way to serve a model. `cloud` and `device` hold settings of `CloudConfig` and
    `DeviceConfig` that differ from the defaults; `notes` go into every result. `needs` names a file
    of the device bundle without which the arm cannot be run."""

    name: str
    about: str
    where: Where = "split"
    cloud: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    needs: str | None = None


_WHOLE_FRAMES = {"max_frame_tokens": ONE_SHOT_TOKENS, "target_step_s": 0.0}
_ONE_STEP = {**_WHOLE_FRAMES, "step_budget_tokens": ONE_SHOT_TOKENS}
_SARATHI = {**_WHOLE_FRAMES, "step_budget_tokens": SARATHI_CHUNK_TOKENS}
_ONE_CHUNK = {"chunking": "fixed", "chunk_tokens": 0}
# What others have done, sends rows as they are.
_RAW = {"wire_codec": "raw"}
_PLAIN = {**_ONE_CHUNK, **_RAW, "drafter": "none"}
_AHEAD = {"pipelining": "off", "draft_ahead": "auto"}
# Passes ask the same prompts again, which a user does not.
_ALONE = {"suffix_memory_tokens": 0}

_SERVED_BY_TWO = (
    "served by `hat cloud` and `hat device` beside each other, so a token costs about a "
    "millisecond of loopback more than in one process",
)
_TEXT_CROSSES = (
    *_SERVED_BY_TWO,
    "bytes are of HTTP bodies, with the usage and the figures that every answer carries here",
)

ARMS = (
    Arm(
        "cloud-only",
        "the whole model in the cloud; text crosses the link",
        "cloud",
        _ONE_STEP,
        _PLAIN,
        _TEXT_CROSSES,
    ),
    Arm(
        "device-only",
        "the whole model on the device; nothing crosses the link",
        "device",
        _ONE_STEP,
        _PLAIN,
        (
            *_SERVED_BY_TWO,
            "the device's processor is the same machine's, not that of a small board",
        ),
    ),
    Arm("u-shape", "split; the prompt whole, one token per round", "split", _ONE_STEP, _PLAIN),
    Arm(
        "u-sarathi",
        f"u-shape, and the cloud cuts prompts into steps of {SARATHI_CHUNK_TOKENS} tokens, "
        "decoding first",
        "split",
        _SARATHI,
        _PLAIN,
    ),
    Arm(
        "u-medusa",
        "u-shape with Medusa-1 heads on the device, which draft the best guess of each in turn",
        "split",
        _ONE_STEP,
        {**_ONE_CHUNK, **_RAW, "drafter": "medusa"},
        needs="medusa.json",
    ),
    Arm(
        "hat",
        "split, with this project's defaults, but that nothing of earlier requests is remembered",
        device=_ALONE,
    ),
    Arm(
        "hat-paper",
        "hat with the paper's rule for chunks and its parallel drafting",
        device={**_ALONE, **_AHEAD, **_RAW, "chunking": "paper"},
    ),
    Arm(
        "hat-no-chunking",
        "hat with the prompt whole",
        cloud=_ONE_STEP,
        device={**_ALONE, **_ONE_CHUNK},
    ),
    Arm("hat-no-speculation", "hat without drafts", device={"drafter": "none"}),
    Arm(
        "hat-ahead",
        "hat with the paper's parallel drafting in the place of pipelined verification",
        device={**_ALONE, **_AHEAD},
    ),
    Arm(
        "hat-no-ahead",
        "hat that does nothing while the cloud verifies",
        device={**_ALONE, "pipelining": "off"},
    ),
)
"""In the order in which results tell them."""


def arm_names() -> list[str]:
    """Every arm's name."""
    return [arm.name for arm in ARMS]


def find_arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        KeyError: there is none.
    """
    for arm in ARMS:
        if arm.name == name:
            return arm
    raise KeyError(name)
