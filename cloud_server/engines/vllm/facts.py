"""What every worker says of itself at the start, and what must be true before rows are sent."""

from collections.abc import Sequence
from typing import NamedTuple

from process.errors import StartError


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
