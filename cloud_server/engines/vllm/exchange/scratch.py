"""Where vLLM puts its sockets, rendezvous files and shared memory, so that none of it stays behind.

Left to itself it leaves them in the temporary directory and in /dev/shm at every end, orderly or
not. They have names only so that workers find them at the start; who has them open keeps them.
"""

import contextlib
import functools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cloud_server.engines.vllm.exchange.rows import SHARED_MEMORY


def sockets_folder() -> Path:
    """This process's own, the same for every engine: vLLM reads it once. Made when it is gone."""
    folder = _folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def files_in(folder: Path) -> Iterator[None]:
    """Temporary files of this process are made there; vLLM asks nobody where to put its own."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def forget_shared_memory() -> None:
    """Every worker has it open: from now on it is gone when they are, however they end."""
    for rendezvous in _folder().glob("vllm_dist_*"):
        for path in SHARED_MEMORY.glob(f"{rendezvous.name}-*"):
            path.unlink(missing_ok=True)


def clear() -> None:
    """The engine has ended: remove the folder and all that is called after it."""
    forget_shared_memory()
    shutil.rmtree(_folder(), ignore_errors=True)


@functools.cache
def _folder() -> Path:
    return Path(tempfile.gettempdir(), f"hat-vllm-{os.getpid()}-{secrets.token_hex(4)}")
