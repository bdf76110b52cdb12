"""Receipts of runs: what the numbers were measured on, by which command."""

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import msgspec

from bench.records import Receipt
from process.machine import commit, is_without_avx512, processor

WITHOUT_AVX512 = "without AVX-512"
"""Behind a processor's name, since a cloud's step is then several times as long."""

_PACKAGES = ("hat-serving", "torch", "onnxruntime", "numpy", "aiohttp")


def live_receipt(command: Sequence[str], seed: int) -> Receipt:
    """The receipt of a run that begins now."""
    return msgspec.structs.replace(
        simulation_receipt(command, seed),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        load_average=round(os.getloadavg()[0], 2),
    )


def simulation_receipt(command: Sequence[str], seed: int) -> Receipt:
    """The receipt of a simulation: the same seed gives the same one."""
    return Receipt(
        commit=commit(),
        command=list(command),
        seed=seed,
        hardware=f"{processor()} {WITHOUT_AVX512}" if is_without_avx512() else processor(),
        num_cores=num_cores(),
        versions=versions(),
    )


def num_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
