"""Rows that branch: which row of a frame follows which (docs/wire-protocol.md, rules W36 and W37).

`parents` has one entry per row: row 0 follows what is cached, and row i > 0 follows row
`parents[i] < i` and, through it, all before that one. It says how rows hang together and
nothing about tokens. Empty parents stand for rows that follow each other.
"""

from collections.abc import Sequence

from wire.messages import Payload

MAX_TREE_ROWS = 32
"""As many as run together without being split, and few enough for a mask to be small."""

_ALIGN_BYTES = 4

Parents = tuple[int, ...]


def tree_bytes(num_rows: int) -> int:
    """How long the parents of this many rows are in a payload: rows begin at a multiple of four."""
    return -(-num_rows // _ALIGN_BYTES) * _ALIGN_BYTES


def join_tree(parents: Sequence[int], rows: Payload) -> bytes:
    """The RAW_TREE payload of packed RAW rows."""
    return b"".join((bytes(parents).ljust(tree_bytes(len(parents)), b"\0"), rows))


def split_tree(payload: Payload, num_rows: int) -> tuple[Parents, memoryview]:
    """The parents and the RAW rows of a RAW_TREE payload.

    Raises:
        ValueError: they are not the parents of `num_rows` rows.
    """
    view = memoryview(payload)
    if not 1 <= num_rows <= MAX_TREE_ROWS:
        raise ValueError(f"expected a tree of 1 to {MAX_TREE_ROWS} rows, got {num_rows}")
    num_bytes = tree_bytes(num_rows)
    if len(view) < num_bytes:
        raise ValueError(f"expected {num_bytes} bytes of parents, got {len(view)}")
    parents = tuple(view[:num_rows])
    if any(view[num_rows:num_bytes]):
        raise ValueError("expected zeros behind the parents")
    if any(parent >= max(1, row) for row, parent in enumerate(parents)):
        raise ValueError("expected each row's parent before it, and 0 for the first")
    return parents, view[num_bytes:]


def chain_rows(parents: Sequence[int], num_rows: int) -> int:
    """How many leading rows follow each other: those whose place is also their position."""
    for row in range(1, len(parents)):
        if parents[row] != row - 1:
            return row
    return num_rows


def row_depths(parents: Sequence[int]) -> list[int]:
    """How many rows of the frame come before each row on its way."""
    depths = [0] * min(1, len(parents))
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
    return depths
