"""The page's one table: a line per arm at each setting, as text; the template only places it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.records import RequestRecord
from bench.report.figures import (
    SIM_TOLERANCE,
    Agreement,
    Quantiles,
    Summary,
    agreements,
    mean_tbt_s,
    median_ttft_s,
    paired_ratio,
    twins,
)
from bench.report.formats import NONE, milliseconds, num_bytes, percent, signed_percent
from bench.report.groups import ArmResult, Group


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure, what stands small beside it, and whether it is good, bad or neither."""

    text: str
    small: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A head, what it means, and its cell for an arm."""

    name: str
    about: str
    cell: Callable[[Group, ArmResult, Summary], Cell]


@dataclass(frozen=True, slots=True)
class Table:
    """All settings, in order: each with its arms, and for these a cell for each column."""

    columns: tuple[Column, ...]
    rows: list[tuple[Group, list[tuple[ArmResult, list[Cell]]]]]


def table(groups: Sequence[Group], baseline: str | None, found: Mapping[int, Summary]) -> Table:
    """Every setting and arm."""
    ratios = [] if baseline is None else _ratios(baseline)
    columns = (*_TIMES, *ratios, *_simulated(twins(groups), found), *_REST)
    rows = [
        (
            group,
            [
                (arm, [column.cell(group, arm, found[arm.number]) for column in columns])
                for arm in group.arms
            ],
        )
        for group in groups
    ]
    return Table(columns, rows)


def same_text(group: Group, result: ArmResult, _: Summary | None = None) -> Cell:
    """Whether greedy answers are those of the first arm."""
    if group.workload.temperature > 0:
        return Cell("sampled")
    same = agreements(group)
    agreement: Agreement | None = same.get(result.arm)
    if agreement is None:
        is_reference = any(each.reference == result.arm for each in same.values())
        return Cell("reference" if is_reference else NONE)
    if agreement.num_different:
        return Cell(f"{agreement.num_different} of {agreement.num_compared} differ", "", "bad")
    return Cell("same", f"{agreement.num_compared} compared", "good")


def _times(quantiles: Quantiles | None) -> Cell:
    if quantiles is None:
        return Cell(NONE)
    rest = f"{milliseconds(quantiles.p90)} · {milliseconds(quantiles.p99)}"
    return Cell(milliseconds(quantiles.p50), rest)


def _ratios(baseline: str) -> list[Column]:
    """TTFT and TBT over the baseline's."""

    def column(
        name: str, what: str, measure: Callable[[Sequence[RequestRecord]], float | None]
    ) -> Column:
        def cell(group: Group, result: ArmResult, _: Summary) -> Cell:
            against = group.arm(baseline)
            ratio = paired_ratio(result, against, measure) if against else None
            if ratio is None:
                return Cell(NONE)
            spread = f"{ratio.least:.2f} · {ratio.greatest:.2f}" if ratio.num > 1 else "one pass"
            return Cell(f"{ratio.median:.2f}", spread)

        about = f"ratio of {what} in the same pass: median over passes, then least and greatest; "
        return Column(f"{name} ÷ {baseline}", f"{about}below 1 is quicker", cell)

    return [column("TTFT", "medians", median_ttft_s), column("TBT", "means", mean_tbt_s)]


def _simulated(simulated: Mapping[int, ArmResult], found: Mapping[int, Summary]) -> list[Column]:
    """How far the simulation of the same setting is off; none where nothing was simulated."""

    def cell(_: Group, result: ArmResult, live: Summary) -> Cell:
        if result.number not in simulated:
            return Cell(NONE)
        sim = found[simulated[result.number].number]
        pairs = ((sim.ttft, live.ttft), (sim.tbt, live.tbt))
        apart = [ours.p50 / theirs.p50 - 1 for ours, theirs in pairs if ours and theirs]
        is_close = all(abs(each) <= SIM_TOLERANCE for each in apart)
        text = " · ".join(map(signed_percent, apart)) or NONE
        return Cell(text, "", "good" if is_close else "bad")

    about = f"medians of TTFT and TBT less the live ones; held to {percent(SIM_TOLERANCE)}"
    return [Column("simulated", about, cell)] if simulated else []


def _per_round(group: Group, _: ArmResult, summary: Summary) -> Cell:
    if not group.model.has_real_weights and summary.tbt:
        return Cell(NONE, f"{group.weights}: not shown")
    if summary.accept_length is None:
        return Cell(NONE)
    accepted = " ".join(f"{100 * share:.0f}" for share in summary.acceptance)
    return Cell(f"{summary.accept_length:.2f}", f"{accepted} %")


def _bytes(_: Group, __: ArmResult, summary: Summary) -> Cell:
    if summary.bytes_up_per_token is None:
        return Cell(NONE)
    down = f"down {num_bytes(summary.bytes_down_per_token)}"
    return Cell(num_bytes(summary.bytes_up_per_token), down)


def _step(_: Group, __: ArmResult, summary: Summary) -> Cell:
    if summary.cloud_step_mean_s is None:
        return Cell(NONE)
    spread = f"± {milliseconds(summary.cloud_step_deviation_s)}"
    return Cell(milliseconds(summary.cloud_step_mean_s), spread)


def _within(_: Group, __: ArmResult, summary: Summary) -> Cell:
    goodput = summary.goodput_per_s
    return Cell(percent(summary.sla), "" if goodput is None else f"{goodput:.3g}/s")


_THREE = "median, then P90 and P99"
_TIMES = (
    Column(
        "TTFT, ms", f"{_THREE} over requests: arrival to first text", lambda g, r, s: _times(s.ttft)
    ),
    Column(
        "TBT, ms",
        f"{_THREE} over tokens: of n tokens that arrive at once each counts the time since the "
        "piece before over n, those of the first piece none",
        lambda g, r, s: _times(s.tbt),
    ),
    Column(
        "between pieces, ms",
        f"{_THREE}, whatever the tokens in a piece",
        lambda g, r, s: _times(s.gap),
    ),
)
_REST = (
    Column(
        "tokens per round", "the model's own counted; then drafts kept, by position", _per_round
    ),
    Column("bytes per token", "up and down, the prompt's included, over tokens of answers", _bytes),
    Column("cloud step, ms", "mean and standard deviation", _step),
    Column("within limits", "share of requests, and such requests per second", _within),
    Column("text", "greedy answers against those of the first arm, by their hashes", same_text),
)
