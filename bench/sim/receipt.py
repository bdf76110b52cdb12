"""A simulation's result: nothing in it changes from one run to the next of the same commit."""

from collections.abc import Iterable, Sequence

from bench.receipts import simulation_receipt
from bench.records import Cell, Run


def sim_run(cells: Iterable[Cell], seed: int, command: Sequence[str]) -> Run:
    """The run that `cells` are of."""
    return Run(kind="sim", receipt=simulation_receipt(command, seed), cells=list(cells))
