"""The default over links: beside no drafting, n-gram, the paper's way, and on adversarial text.

All arms of a setting run side by side and each prompt goes to one after the other, so that their
times differ by what they do and not by the minute in which they did it.
"""

import asyncio
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.install import install_adapter
from bench import measures
from bench.arms import Arm, find_arm
from bench.link.shaped_link import LinkKind
from bench.link.spec import LinkSpec
from bench.live.plan import LivePlan, Setting, is_chat, prompts_for
from bench.live.run import Progress, run_live
from bench.records import Cell, RequestRecord, WorkloadRecord
from bench.workloads.arrivals import CLOSED
from bench.workloads.prompts import ADVERSARIAL, SPEC_BENCH

PLAIN, DEFAULT = find_arm("u-shape"), find_arm("hat")
NGRAM = Arm("hat-ngram", "hat that drafts by prompt lookup alone", device={"drafter": "ngram"})
PAPER = Arm(
    "hat-as-paper",
    "hat with the paper's rule for chunks, its adapter, and drafting ahead",
    device={**find_arm("hat-paper").device, "drafter": "adapter"},
    needs="adapter.json",
)
WAITING, AHEAD = find_arm("hat-no-ahead"), find_arm("hat-ahead")
"""The default that sends nothing behind an undecided draft, and the one that drafts ahead."""

USUAL, PENALISED = "usual", "penalised"
PARTS = (USUAL, ADVERSARIAL, PENALISED)
"""What can be measured: questions, greedy; text that nobody can foresee, at temperature 1; and
questions, greedy but for the penalty on repetition that `hat up` gives its default model."""

PENALTY = 1.1
"""`submodels.checkpoint.real_model`: the model's own text in circles is what guesses live on."""

GROUPS = "chat,code,mathematics"

_DTYPE = "float32"
"""In which equal texts are promised."""

_NUM_WARM_UP, _QUESTION_TOKENS = 3, 24
"""Questions before those that count: who serves for a while knows its drafters."""

_WARM_UP_TOKENS = 520
"""Before adversarial text is measured: more than the 500 over which the default promises to lose
little (docs/drafting.md)."""


@dataclass(frozen=True, slots=True)
class Outing:
    """What to measure. `paper` is a device bundle of the same split with the paper's adapter."""

    bundles: Path
    paper: Path | None
    links: tuple[LinkSpec, ...]
    parts: tuple[str, ...] = PARTS
    link_kind: LinkKind | None = None
    num_requests: int = 6
    max_tokens: int = 36
    num_adversarial: int = 9
    adversarial_tokens: int = 32
    warm_up_tokens: int = _WARM_UP_TOKENS
    limit_s: float = math.inf
    seed: int = 0


def settings_of(outing: Outing) -> Iterator[Setting]:
    """Link by link, so that what is left out when time runs short is the last link's."""
    for link in outing.links:
        for part in outing.parts:
            yield _adversarial(outing, link) if part == ADVERSARIAL else _usual(outing, link, part)


def _usual(outing: Outing, link: LinkSpec, part: str) -> Setting:
    name = prompts_for(outing.bundles)
    arms, device_bundles = [PLAIN, NGRAM, DEFAULT], dict[str, Path]()
    if part == USUAL:
        arms += [WAITING, AHEAD]
        if outing.paper is not None:
            arms.append(PAPER)
            device_bundles[PAPER.name] = outing.paper
    load = WorkloadRecord(
        name=f"{name}:{GROUPS}" if name == SPEC_BENCH else name,
        arrivals=CLOSED,
        num_devices=1,
        num_requests=outing.num_requests,
        max_output_tokens=outing.max_tokens,
        temperature=0.0,
        repetition_penalty=PENALTY if part == PENALISED else 1.0,
        is_chat=is_chat(outing.bundles, name),
    )
    return Setting(
        bundles=outing.bundles,
        link=link,
        workload=load,
        arms=tuple(arms),
        link_kind=outing.link_kind,
        dtype=_DTYPE,
        num_warm_up=_NUM_WARM_UP,
        warm_up_tokens=_QUESTION_TOKENS,
        takes_turns=True,
        device_bundles=device_bundles,
    )


def _adversarial(outing: Outing, link: LinkSpec) -> Setting:
    load = WorkloadRecord(
        name=ADVERSARIAL,
        arrivals=CLOSED,
        num_devices=1,
        num_requests=outing.num_adversarial,
        max_output_tokens=outing.adversarial_tokens,
        temperature=1.0,
    )
    return Setting(
        bundles=outing.bundles,
        link=link,
        workload=load,
        arms=(PLAIN, DEFAULT),
        link_kind=outing.link_kind,
        dtype=_DTYPE,
        num_warm_up=outing.num_adversarial,
        # The first token of an answer is in no round.
        warm_up_tokens=1 + math.ceil(outing.warm_up_tokens / outing.num_adversarial),
        takes_turns=True,
    )


def with_adapter(bundles: Path, adapter: Path, out: Path) -> Path:
    """The same two bundles with another adapter, in a new folder; large files are not copied.

    Raises:
        AdapterError, BundleError: no adapter for this model, or no sound bundle.
        OSError: the folder is there, or cannot be written.
    """

    def place(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    shutil.copytree(bundles, out, copy_function=place)
    install_adapter(out / "device", adapter)
    return out


def measure(outing: Outing, say: Callable[[str], None]) -> list[Cell]:
    """The cells of all settings that the time allows; `say` is told what is done and left out.

    Raises:
        LiveError, LinkError, BundleError, WorkloadError: as `bench.live.run.run_live`.
    """
    begun_s, cells = time.monotonic(), list[Cell]()
    for setting in settings_of(outing):
        left_s = outing.limit_s - (time.monotonic() - begun_s)
        plan = LivePlan((setting,), seed=outing.seed)
        progress = Progress(say, lambda: None)
        try:
            within_s = None if math.isinf(left_s) else max(0.0, left_s)
            cells += asyncio.run(asyncio.wait_for(run_live(plan, progress), within_s))
        except TimeoutError:
            say(f"left out, since {outing.limit_s:g} s are over: {setting.name}")
    return cells


@dataclass(frozen=True, slots=True)
class Ratio:
    """Time per token of one arm over that of another, for the same answers.

    `error` is the standard error over answers of the mean logarithm, None of one answer.
    """

    value: float
    error: float | None


def token_s(request: RequestRecord) -> float | None:
    """Mean time between tokens; None where fewer than two came apart."""
    gaps = measures.tbt_s(request)
    return sum(gaps) / len(gaps) if gaps else None


def compared(cells: Sequence[Cell], arm: str, baseline: str) -> Ratio | None:
    """The geometric mean over answers of `arm`'s time per token over `baseline`'s."""
    ours, theirs = _times(cells, arm), _times(cells, baseline)
    logs = [math.log(ours[number] / theirs[number]) for number in sorted(ours.keys() & theirs)]
    if not logs:
        return None
    mean = sum(logs) / len(logs)
    error = None
    if len(logs) > 1:
        error = math.sqrt(sum((log - mean) ** 2 for log in logs) / (len(logs) - 1) / len(logs))
    return Ratio(math.exp(mean), error)


def _times(cells: Sequence[Cell], arm: str) -> Mapping[int, float]:
    """Time per token of an arm's answers, by number."""
    return {
        request.number: value
        for cell in cells
        if cell.arm == arm
        for request in cell.requests
        if request.error is None and (value := token_s(request)) is not None
    }
