"""Where this program keeps what it can make again."""

import sys
from collections.abc import Mapping
from pathlib import Path

CACHE_VARIABLE = "HAT_CACHE"


def cache_folder(environ: Mapping[str, str]) -> Path:
    """HAT_CACHE, or `hat` in the user's cache folder of this platform.

    Source: XDG Base Directory Specification 0.8; Apple, "File System Programming Guide".
    """
    if environ.get(CACHE_VARIABLE):
        return Path(environ[CACHE_VARIABLE]).expanduser()
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "hat"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hat"
    return Path.home() / ".cache" / "hat"
