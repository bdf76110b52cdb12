"""What a live run is to do, and the names and records that follow from it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.arms import NO_ADAPTER, WARM_UP_TOKENS, WITH_ADAPTER, Arm
from bench.link.shaped_link import LinkKind
from bench.link.spec import LinkSpec, link_text
from bench.live.asking import Ask, Load
from bench.models import has_real_weights
from bench.records import ModelRecord, WorkloadRecord
from bench.workloads.arrivals import CLOSED, arrivals
from bench.workloads.prompts import SPEC_BENCH, is_spec_bench, load_prompts
from device_runtime.engines.bundle_adapter import recorded_figures
from device_runtime.text.chat_template import has_chat_template
from submodels.bundle.bundle import load_bundle

MOST_WHOLE_MODELS = 8
"""Devices that run the whole model in one run: each is a torch of its own, 260 MB when idle."""

_Arm = TypeVar("_Arm")

_NUM_TIMELINES = 1
_NUM_PLAIN_WARM_UP = 2

_TEMPLATE_TOKENS = 256
"""Room for what a chat template writes around a message; the longest prompts here have 1,400."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One model, link and workload, for all of `arms`.

    `link_kind` None takes the most faithful.
    """

    bundles: Path
    """The folder that `hat split` wrote."""
    link: LinkSpec
    workload: WorkloadRecord
    """Its requests are over all devices."""
    arms: tuple[Arm, ...]
    link_kind: LinkKind | None = None
    dtype: str = "auto"
    """The cloud's number format, auto: the bundle's own. Rows cross in it."""
    num_warm_up: int = 3
    """Each device answers so many requests before the first that counts: its estimates of link and
    cloud need some."""
    warm_up_tokens: int | None = None
    """Of each of these answers; None: as `WARM_UP_TOKENS`, or fewer where answers are shorter. An
    arm that drafts nothing has the short ones in any case, when arms take turns."""
    takes_turns: bool = False
    """Whether all arms run side by side and each request goes to one after the other, or arms run
    one after the other. Only with one device and closed arrivals."""
    device_bundles: Mapping[str, Path] = field(default_factory=dict)
    """By arm, where its device has not the bundle in `bundles`."""

    @property
    def name(self) -> str:
        """What its results are filed under; the model and the kind of link are beside it."""
        load = self.workload
        parts = [f"{load.name} x {load.max_output_tokens}", link_text(self.link)]
        parts += [f"{load.num_devices} devices"] if load.num_devices > 1 else []
        if load.arrivals != CLOSED:
            parts += [f"{load.arrivals} {load.requests_per_s:g}/s"]
        parts += [self.dtype] if self.dtype != "auto" else []
        parts += [f"temperature {load.temperature:g}"] if load.temperature else []
        parts += [f"top_p {load.top_p:g}"] if load.temperature and load.top_p < 1 else []
        if load.repetition_penalty != 1:
            parts += [f"repetition penalty {load.repetition_penalty:g}"]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class LivePlan:
    """Settings one after the other, each with all its arms in `repeats` passes."""

    settings: tuple[Setting, ...]
    repeats: int = 1
    seed: int = 0

    @property
    def num_requests(self) -> int:
        """Answers that are to come, warming up left out."""
        each = (len(one.arms) * one.workload.num_requests for one in self.settings)
        return self.repeats * sum(each)


def in_turn(arms: Sequence[_Arm], repeat: int) -> list[_Arm]:
    """The arms in the order of a pass: each pass begins with another one.

    A machine that becomes slower or faster with time then favours none of them.
    """
    start = repeat % len(arms)
    return [*arms[start:], *arms[:start]]


def arms_for(bundles: Path, arms: Sequence[Arm], num_devices: int) -> tuple[Arm, ...]:
    """Those of the arms that a model has the parts for, and that this many devices leave room."""
    return tuple(
        arm
        for arm in arms
        if (arm.needs is None or (bundles / "device" / arm.needs).is_file())
        and (arm.where != "device" or num_devices <= MOST_WHOLE_MODELS)
    )


def prompts_for(bundles: Path) -> str:
    """The set of prompts for a model of which nothing else is known."""
    return SPEC_BENCH if has_chat_template(bundles / "device") else "tinystories"


def is_chat(bundles: Path, prompts: str) -> bool:
    """Whether prompts of this set are messages, as this model was trained to read them."""
    return is_spec_bench(prompts) and has_chat_template(bundles / "device")


def drafter_note(bundles: Path, arm: Arm) -> tuple[str, ...]:
    """How an arm drafts, where that depends on the model.

    Raises:
        AdapterError, BundleError: no usable bundle there.
    """
    if arm.where != "split" or arm.device.get("drafter", "auto") != "auto":
        return ()
    device = load_bundle(bundles / "device", "device")
    if recorded_figures(device) is None:
        return (NO_ADAPTER,)
    return (WITH_ADAPTER,)


def model_record(bundles: Path, dtype: str = "auto") -> ModelRecord:
    """The model in a folder that `hat split` wrote, served in `dtype`.

    Raises:
        BundleError: it holds no sound bundle.
    """
    manifest = load_bundle(bundles / "cloud", "cloud").manifest
    num_layers = manifest.shape.num_layers
    return ModelRecord(
        name=manifest.model_name,
        fingerprint=manifest.fingerprint,
        num_layers=num_layers,
        num_input_layers=manifest.num_input_layers,
        num_output_layers=manifest.num_output_layers,
        hidden_size=manifest.shape.hidden_size,
        intermediate_size=manifest.shape.intermediate_size,
        kv_size=manifest.shape.num_cached(range(num_layers)) // (2 * num_layers),
        dtype=manifest.dtype if dtype == "auto" else dtype,
        has_real_weights=has_real_weights(bundles / "cloud"),
    )


def loads_of(setting: Setting, seed: int) -> list[Load]:
    """A setting's requests by device: the same seed gives the same ones, which go round them.

    A device warms up with its first prompts, cut short; where arms take turns, with others: what an
    arm learns meanwhile is not of the texts that it is measured on.

    Raises:
        WorkloadError: no such prompts or arrivals.
    """
    asked = setting.workload
    device = setting.bundles / "device"
    context = load_bundle(device, "device").manifest.shape.max_context_tokens
    short = setting.warm_up_tokens or min(asked.max_output_tokens, WARM_UP_TOKENS)
    answer_tokens = max(asked.max_output_tokens, short)
    longest = context - answer_tokens - (_TEMPLATE_TOKENS if asked.is_chat else 0)
    num_others = setting.num_warm_up if setting.takes_turns else 0
    num_prompts = asked.num_requests + num_others
    prompts = load_prompts(asked.name, num_prompts, seed, device, longest)
    times = arrivals(asked.arrivals, asked.num_requests, asked.requests_per_s, seed)
    asks = [
        Ask(
            number=number,
            prompt=prompt.text,
            max_tokens=asked.max_output_tokens,
            at_s=at_s,
            category=prompt.category,
        )
        for number, (prompt, at_s) in enumerate(
            zip(prompts, [*times, *[0.0] * num_others], strict=True)
        )
    ]
    asks, others = asks[: asked.num_requests], asks[asked.num_requests :]
    loads = []
    for number in range(asked.num_devices):
        own = asks[number :: asked.num_devices]
        first = itertools.islice(itertools.cycle(others or own), setting.num_warm_up)
        load = Load(
            device=number,
            warm_up=[msgspec.structs.replace(ask, max_tokens=short) for ask in first],
            asks=own,
            is_closed=asked.arrivals == CLOSED,
            temperature=asked.temperature,
            top_p=asked.top_p,
            repetition_penalty=asked.repetition_penalty,
            is_chat=asked.is_chat,
            seed=seed,
            timelines=list(range(_NUM_TIMELINES)),
        )
        loads.append(load)
    return loads


def load_for(arm: Arm, load: Load) -> Load:
    """A device's load as one arm has it: without drafts there is less to learn."""
    if arm.device.get("drafter") != "none":
        return load
    warm_up = [
        msgspec.structs.replace(ask, max_tokens=min(ask.max_tokens, WARM_UP_TOKENS))
        for ask in load.warm_up[:_NUM_PLAIN_WARM_UP]
    ]
    return msgspec.structs.replace(load, warm_up=warm_up)
