"""The default over links: beside no drafting, n-gram, the paper's way, and on adversarial text."""

import asyncio
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
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
from bench.workloads.prompts import ADVERSARIAL

PLAIN, DEFAULT = find_arm("u-shape"), find_arm("hat")
NGRAM = Arm("hat-ngram", "hat that drafts by prompt lookup alone", device={"drafter": "ngram"})
PAPER = Arm(
    "hat-as-paper",
    "hat with the paper's rule for chunks, its adapter, and drafting ahead",
    device={**find_arm("hat-paper").device, "drafter": "adapter"},
    needs="adapter.json",
)

_DTYPE = "float32"
"""In which equal texts are promised."""


@dataclass(frozen=True, slots=True)
class Outing:
    """What to measure. `paper` is a folder of the same split whose adapter is the paper's.

    Adversarial answers together are longer than the stretch over which the default promises to
    lose little (`device_runtime.drafting`).
    """

    bundles: Path
    paper: Path | None
    links: tuple[LinkSpec, ...]
    link_kind: LinkKind | None = None
    num_requests: int = 6
    max_tokens: int = 32
    num_adversarial: int = 3
    adversarial_tokens: int = 84
    num_warm_up: int = 2
    """Requests before those that count, for each device."""
    limit_s: float = 720.0
    seed: int = 0


def settings_of(outing: Outing) -> Iterator[Setting]:
    """One after the other, so that what is left out when time runs short is the last link's."""
    name = prompts_for(outing.bundles)
    usual = WorkloadRecord(
        name=name,
        arrivals=CLOSED,
        num_devices=1,
        num_requests=outing.num_requests,
        max_output_tokens=outing.max_tokens,
        temperature=0.0,
        is_chat=is_chat(outing.bundles, name),
    )
    unforeseen = WorkloadRecord(
        name=ADVERSARIAL,
        arrivals=CLOSED,
        num_devices=1,
        num_requests=outing.num_adversarial,
        max_output_tokens=outing.adversarial_tokens,
        temperature=1.0,
    )
    for link in outing.links:

        def setting(
            bundles: Path, load: WorkloadRecord, *arms: Arm, over: LinkSpec = link
        ) -> Setting:
            return Setting(bundles, over, load, arms, outing.link_kind, _DTYPE, outing.num_warm_up)

        yield setting(outing.bundles, usual, PLAIN, NGRAM, DEFAULT)
        if outing.paper is not None:
            yield setting(outing.paper, usual, PAPER)
        yield setting(outing.bundles, unforeseen, PLAIN, DEFAULT)


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
        names = ", ".join(arm.name for arm in setting.arms)
        plan = LivePlan((setting,), seed=outing.seed)
        progress = Progress(say, lambda: None)
        try:
            cells += asyncio.run(asyncio.wait_for(run_live(plan, progress), max(0.0, left_s)))
        except TimeoutError:
            say(f"left out, since {outing.limit_s:g} s are over: {setting.name}: {names}")
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
    times = {
        name: {
            request.number: value
            for cell in cells
            if cell.arm == name
            for request in cell.requests
            if request.error is None and (value := token_s(request)) is not None
        }
        for name in (arm, baseline)
    }
    both = sorted(times[arm].keys() & times[baseline].keys())
    logs = [math.log(times[arm][number] / times[baseline][number]) for number in both]
    if not logs:
        return None
    mean = sum(logs) / len(logs)
    error = None
    if len(logs) > 1:
        error = math.sqrt(sum((log - mean) ** 2 for log in logs) / (len(logs) - 1) / len(logs))
    return Ratio(math.exp(mean), error)
