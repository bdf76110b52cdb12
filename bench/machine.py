"""What a number was measured on: it means nothing without."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


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


def processor() -> str:
    """The processor's name."""
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The commit that runs, `-dirty` behind it when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = Path(__file__).resolve().parent
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not a repository"
    return result.stdout.strip()
