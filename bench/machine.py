"""The lines that stand above a measurement."""

import os
import platform
from importlib.metadata import version

from process.machine import commit, processor


def machine_lines() -> list[str]:
    """Processor, load, versions and commit, one per line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    packages = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return [
        f"hardware: {processor()}, {cores} cores",
        f"load average before: {load}",
        f"versions: Python {platform.python_version()}, {packages}",
        f"commit: {commit()}",
    ]
