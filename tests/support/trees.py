"""Trees of rows for tests."""

from collections.abc import Sequence

from hypothesis import strategies as st

BUSHY = (0, 0, 1, 2, 2, 1, 0, 6, 6, 8)
"""A chain of four first, then branches at every depth."""
STAR = (0, 0, 0, 0, 0)
CHAIN = (0, 0, 1, 2, 3)
LATE = (0, 0, 0, 1, 2, 3, 4)
"""Two ways whose rows take turns."""

TREES = (BUSHY, STAR, CHAIN, LATE, (0,))


def way(parents: Sequence[int], row: int) -> list[int]:
    """The rows from the first one to `row`."""
    rows = [row]
    while rows[0] > 0:
        rows.insert(0, parents[rows[0]])
    return rows


@st.composite
def trees(draw: st.DrawFn, max_rows: int = 12) -> tuple[int, ...]:
    """Parents of 1 to `max_rows` rows."""
    num_rows = draw(st.integers(1, max_rows))
    return (0, *(draw(st.integers(0, row - 1)) for row in range(1, num_rows)))
