"""What this runs on: its processor, its commit, and where things are kept."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

CACHE_VARIABLE = "HAT_CACHE"

_CPU_INFO = Path("/proc/cpuinfo")


def processor() -> str:
    """The processor's name."""
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def is_without_avx512() -> bool:
    """Whether this is an x86 processor without AVX-512, as far as the system says."""
    if not _CPU_INFO.is_file():
        return False
    flags = [line for line in _CPU_INFO.read_text().splitlines() if line.startswith("flags")]
    return bool(flags) and "avx512f" not in flags[0].split()


def commit() -> str:
    """The commit that runs, `-dirty` behind it when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = Path(__file__).resolve().parent
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not a repository"
    return result.stdout.strip()


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where this program keeps what it can make again.

    HAT_CACHE, or `hat` in the user's cache folder of this platform.

    Source: XDG Base Directory Specification 0.8; Apple, "File System Programming Guide"; Microsoft,
    "Known folders" (LOCALAPPDATA is a variable of Windows).
    """
    if environ.get(CACHE_VARIABLE):
        return Path(environ[CACHE_VARIABLE]).expanduser()
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "hat"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hat"
    if environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "hat" / "cache"
    return Path.home() / ".cache" / "hat"
