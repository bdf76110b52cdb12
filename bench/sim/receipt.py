"""A simulation's result: nothing in it changes from one run to the next of the same commit."""

from collections.abc import Iterable, Sequence

from bench.receipts import simulation_receipt
from bench.records import Cell, Comparison, Run


def sim_run(
    cells: Iterable[Cell],
    seed: int,
    command: Sequence[str],
    comparisons: Sequence[Comparison] = (),
) -> Run:
    """The run that `cells` are of, with what is set beside the paper."""
    receipt = simulation_receipt(command, seed)
    return Run(kind="sim", receipt=receipt, cells=list(cells), comparisons=list(comparisons))
