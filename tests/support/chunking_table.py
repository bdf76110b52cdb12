"""The table of docs/chunking.md, made by the cost model itself.

`python -m tests.support.chunking_table` writes it into the document and prints it.
"""

import re
from itertools import product
from pathlib import Path

from chunking.bounded_planner import BoundedPlanner
from chunking.cost import LinearTime, PipelineTimes, ttft_bound_s, ttft_s
from chunking.estimates import Estimates
from chunking.paper_planner import PaperPlanner
from chunking.planner import Prefill

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "chunking.md"
TOKEN_BYTES = 8192
LENGTHS = (512, 2048)
MBIT_PER_S = (5, 10, 20, 40, 200)
DELAY_S = 0.050

_MARKED = "<!-- predicted times -->\n{table}\n<!-- end -->"


def with_fresh_table(text: str) -> str:
    """The document with its table made anew."""
    fresh = _MARKED.format(table=table())
    pattern = _MARKED.format(table=".*?")
    text, num_found = re.subn(pattern, lambda _: fresh, text, flags=re.DOTALL)
    assert num_found == 1, "no place for the table"
    return text


def table() -> str:
    """A row for each prompt length and rate."""
    kinds = ("one chunk", "chunks of 64", "paper's rule", "ours", "bound", "ours, as cut")
    head = f"| tokens | Mbit/s | {' | '.join(kinds)} |"
    rows = [_row(*setting) for setting in product(LENGTHS, MBIT_PER_S)]
    return "\n".join([head, "|---" * (2 + len(kinds)) + "|", *rows])


def _row(num_tokens: int, mbit_per_s: int) -> str:
    bytes_per_s = mbit_per_s * 1e6 / 8
    cloud, device = LinearTime(0.015, 0.00025), LinearTime(0.0, 0.0003)
    times = PipelineTimes(device, TOKEN_BYTES / bytes_per_s, cloud, DELAY_S)
    known = Estimates(TOKEN_BYTES, bytes_per_s, None, DELAY_S, 0.0, cloud, device)
    size = PaperPlanner().next_chunk_tokens(Prefill(num_tokens, num_tokens, 0, known))
    ours = BoundedPlanner().plan(num_tokens, times)
    cells = [
        f"{num_tokens}",
        f"{mbit_per_s}",
        _with_count((num_tokens,), times),
        _with_count(_equal(num_tokens, 64), times),
        _with_count(_equal(num_tokens, size), times),
        _with_count(ours, times),
        f"{1000 * ttft_bound_s(num_tokens, times):.0f}",
        " ".join(str(size) for size in ours),
    ]
    return f"| {' | '.join(cells)} |"


def _equal(num_tokens: int, size: int) -> tuple[int, ...]:
    num_whole, rest = divmod(num_tokens, size)
    return (size,) * num_whole + ((rest,) if rest else ())


def _with_count(chunks: tuple[int, ...], times: PipelineTimes) -> str:
    return f"{1000 * ttft_s(chunks, times):.0f} ({len(chunks)})"


if __name__ == "__main__":
    DOCUMENT.write_text(with_fresh_table(DOCUMENT.read_text()))
    print(table())
