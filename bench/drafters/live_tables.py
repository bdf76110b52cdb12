"""What was measured over links, as Markdown."""

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from bench import measures
from bench.drafters.live import AHEAD, DEFAULT, PAPER, PLAIN, WAITING, Ratio, compared
from bench.records import Cell
from bench.workloads.prompts import ADVERSARIAL


def live_tables(cells: Sequence[Cell]) -> str:
    """All tables as Markdown: questions link by link, pipelining, adversarial text by kind."""
    unforeseen = [cell for cell in cells if cell.workload.name == ADVERSARIAL]
    asked = [cell for cell in cells if cell.workload.name != ADVERSARIAL]
    usual = [cell for cell in asked if cell.workload.repetition_penalty == 1]
    penalised = [cell for cell in asked if cell.workload.repetition_penalty != 1]
    parts: list[str] = []
    if usual:
        parts += [f"**{_load(usual)}, greedy**, no penalties:", "", *_arms_table(usual), ""]
        parts += ["What sending on brings and costs, time per token of `hat` beside others':", ""]
        parts += [*_pipelining_table(usual), ""]
    if penalised:
        penalty = penalised[0].workload.repetition_penalty
        title = f"**{_load(penalised)}, greedy with a repetition penalty of {penalty:g}**"
        parts += [f"{title}, as `hat up` serves its default model:", "", *_arms_table(penalised)]
        parts.append("")
    if unforeseen:
        title = f"**{_load(unforeseen)}, temperature 1**, after the warm-up"
        parts += [f"{title}:", "", *_unforeseen_table(unforeseen), ""]
    parts.append("± is the standard error over answers, of a geometric mean of ratios.")
    return "\n".join([*parts, ""])


def _load(cells: Sequence[Cell]) -> str:
    load = cells[0].workload
    return f"{load.num_requests} texts of {load.name}, {load.max_output_tokens} tokens each"


def _arms_table(cells: Sequence[Cell]) -> list[str]:
    heads = ("round trip", "arm", "ms per token", "of u-shape's", "tokens/s", "tokens per round")
    lines = _head(*heads, "stale rows", "cloud rows per token", "TTFT, ms")
    for over in _by_link(cells):
        for arm in dict.fromkeys(cell.arm for cell in over):
            own = [cell for cell in over if cell.arm == arm]
            lines.append(_row(_link(over), f"`{arm}`", *_figures(over, own)))
    return lines


def _figures(over: Sequence[Cell], own: Sequence[Cell]) -> tuple[str, ...]:
    requests = [one for cell in own for one in cell.requests]
    gaps = [value for one in requests for value in measures.tbt_s(one)]
    token_s = sum(gaps) / len(gaps) if gaps else None
    firsts = [value for one in requests if (value := measures.ttft_s(one)) is not None]
    return (
        _number(token_s, lambda value: f"{1e3 * value:.1f}"),
        _ratio(compared(over, own[0].arm, PLAIN.name)),
        _number(token_s, lambda value: f"{1 / value:.1f}"),
        _number(measures.accept_length(requests), lambda value: f"{value:.2f}"),
        _number(measures.stale_share(requests), lambda value: f"{value:.0%}"),
        _number(measures.cloud_rows_per_token(own), lambda value: f"{value:.2f}"),
        f"{1e3 * measures.percentile(firsts, 50):.0f}" if firsts else "-",
    )


def _pipelining_table(cells: Sequence[Cell]) -> list[str]:
    beside = {
        WAITING.name: f"`{WAITING.name}` (waits for every decision)",
        AHEAD.name: f"`{AHEAD.name}` (drafts ahead)",
        PAPER.name: f"`{PAPER.name}`",
    }
    there = [name for name in beside if any(cell.arm == name for cell in cells)]
    lines = _head("round trip", *(beside[name] for name in there))
    for over in _by_link(cells):
        ratios = [_ratio(compared(over, DEFAULT.name, name)) for name in there]
        lines.append(_row(_link(over), *ratios))
    return lines


def _unforeseen_table(cells: Sequence[Cell]) -> list[str]:
    heads = ("round trip", "text", "answers", "`u-shape`, ms per token", "`hat`, of u-shape's")
    lines = _head(*heads, "tokens per round", "cloud rows per token")
    for over in _by_link(cells):
        kinds = dict.fromkeys(one.category for cell in over for one in cell.requests)
        for kind in [*kinds, None]:
            found = [_of_kind(cell, kind) for cell in over]
            plain, ours = (
                [one for one in found if one.arm == arm.name] for arm in (PLAIN, DEFAULT)
            )
            requests = [one for cell in ours for one in cell.requests]
            gaps = [gap for cell in plain for one in cell.requests for gap in measures.tbt_s(one)]
            rows = None if kind else measures.cloud_rows_per_token(ours)
            lines.append(
                _row(
                    _link(over),
                    kind or "all",
                    str(len(requests)),
                    f"{1e3 * sum(gaps) / len(gaps):.1f}" if gaps else "-",
                    _ratio(compared(found, DEFAULT.name, PLAIN.name)),
                    _number(measures.accept_length(requests), lambda value: f"{value:.2f}"),
                    _number(rows, lambda value: f"{value:.2f}"),
                )
            )
    return lines


def _of_kind(cell: Cell, kind: str | None) -> Cell:
    kept = [one for one in cell.requests if kind is None or one.category == kind]
    return replace(cell, requests=kept)


def _by_link(cells: Sequence[Cell]) -> list[list[Cell]]:
    """By round trip, the shortest first."""
    delays = sorted({cell.link.delay_s for cell in cells})
    return [[cell for cell in cells if cell.link.delay_s == delay_s] for delay_s in delays]


def _link(cells: Sequence[Cell]) -> str:
    return f"{2e3 * cells[0].link.delay_s:g} ms"


def _ratio(found: Ratio | None) -> str:
    if found is None:
        return "-"
    error = "" if found.error is None else f" ± {found.value * found.error:.3f}"
    return f"{found.value:.3f}{error}"


def _number(value: float | None, text: Callable[[float], str]) -> str:
    return "-" if value is None else text(value)


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*("---" for _ in names))]


def _row(*entries: Iterable[str]) -> str:
    return f"| {' | '.join(map(str, entries))} |"
