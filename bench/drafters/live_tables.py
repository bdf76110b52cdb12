"""What was measured over links, as Markdown."""

from collections.abc import Sequence

from msgspec.structs import replace

from bench import measures
from bench.drafters.live import DEFAULT, PLAIN, Ratio, compared
from bench.records import Cell
from bench.workloads.prompts import ADVERSARIAL


def live_tables(cells: Sequence[Cell]) -> str:
    """Both tables as Markdown: usual prompts link by link, and adversarial ones by kind."""
    lines = [
        "| round trip | arm | ms per token | of u-shape's | tokens per round | TTFT, ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    usual = [cell for cell in cells if cell.workload.name != ADVERSARIAL]
    for over in _by_link(usual):
        lines += [_usual_row(over, arm) for arm in dict.fromkeys(cell.arm for cell in over)]
    unforeseen = [cell for cell in cells if cell.workload.name == ADVERSARIAL]
    lines += ["", "| round trip | adversarial text | `hat`, ms per token of u-shape's |"]
    lines.append("| --- | --- | --- |")
    for over in _by_link(unforeseen):
        kinds = dict.fromkeys(one.category for cell in over for one in cell.requests)
        for kind in [*kinds, None]:
            found = compared([_of_kind(cell, kind) for cell in over], DEFAULT.name, PLAIN.name)
            lines.append(f"| {_link(over)} | {kind or 'all'} | {_ratio(found)} |")
    return "\n".join([*lines, "", "± is the standard error over answers, of a mean of ratios.", ""])


def _usual_row(over: Sequence[Cell], arm: str) -> str:
    requests = [one for cell in over if cell.arm == arm for one in cell.requests]
    gaps = [value for one in requests for value in measures.tbt_s(one)]
    firsts = [value for one in requests if (value := measures.ttft_s(one)) is not None]
    per_round = measures.accept_length(requests)
    cells = (
        _link(over),
        f"`{arm}`",
        f"{1e3 * sum(gaps) / len(gaps):.1f}" if gaps else "-",
        _ratio(compared(over, arm, PLAIN.name)),
        "-" if per_round is None else f"{per_round:.2f}",
        f"{1e3 * measures.percentile(firsts, 50):.0f}" if firsts else "-",
    )
    return f"| {' | '.join(cells)} |"


def _of_kind(cell: Cell, kind: str | None) -> Cell:
    kept = [one for one in cell.requests if kind is None or one.category == kind]
    return replace(cell, requests=kept)


def _by_link(cells: Sequence[Cell]) -> list[list[Cell]]:
    delays = dict.fromkeys(cell.link.delay_s for cell in cells)
    return [[cell for cell in cells if cell.link.delay_s == delay_s] for delay_s in delays]


def _link(cells: Sequence[Cell]) -> str:
    return f"{2e3 * cells[0].link.delay_s:g} ms"


def _ratio(found: Ratio | None) -> str:
    if found is None:
        return "-"
    error = "" if found.error is None else f" ± {found.value * found.error:.3f}"
    return f"{found.value:.3f}{error}"
