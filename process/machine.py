"""What this runs on: a number that was measured means nothing without."""

import platform
import subprocess
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


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
