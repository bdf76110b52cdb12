"""The page's one table: a line per arm at each setting, as text; the template only places it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.report.figures import (
    SIM_TOLERANCE,
    Agreement,
    Limits,
    Quantiles,
    Ratio,
    agreements,
    mean_tbt_s,
    median_ttft_s,
    paired_ratio,
    summarise,
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
class Row:
    """One arm, with a cell for each column."""

    result: ArmResult
    cells: tuple[Cell, ...]

    @property
    def notes(self) -> list[str]:
        """What its results say of themselves, each once."""
        return list(dict.fromkeys(note for cell in self.result.cells for note in cell.notes))


@dataclass(frozen=True, slots=True)
class GroupRows:
    """One setting."""

    group: Group
    rows: tuple[Row, ...]
    agreements: Mapping[str, Agreement]


def columns(baseline: str | None, with_twins: bool) -> list[tuple[str, str]]:
    """Heads of the table and what each means."""
    three = "median, then P90 and P99"
    ratios = "of passes, median, then least and greatest; below 1 is quicker"
    found = [
        ("TTFT, ms", f"{three} over requests: from the request's arrival to its first text"),
        ("TBT, ms", f"{three} over tokens: time since the piece before, shared by its tokens"),
        ("between pieces, ms", f"{three} over pieces, whatever the tokens in each"),
    ]
    if baseline is not None:
        found += [(f"TTFT ÷ {baseline}", f"ratio of medians {ratios}")]
        found += [(f"TBT ÷ {baseline}", f"ratio of means {ratios}")]
    if with_twins:
        found += [("simulated", "TTFT and TBT, medians, less the live ones")]
    return [
        *found,
        (
            "tokens per round",
            "the model's own counted; then drafts kept, by position in a round",
        ),
        ("bytes per token", "up and down, the prompt's included, over tokens of answers"),
        ("cloud step, ms", "mean and standard deviation"),
        ("within limits", "share of requests, and such requests per second"),
        ("text", "greedy answers against those of the first arm"),
    ]


def group_rows(groups: Sequence[Group], baseline: str | None, limits: Limits) -> list[GroupRows]:
    """Every setting, in order."""
    simulated = twins(groups)
    found = []
    for group in groups:
        same = agreements(group)
        rows = [
            Row(
                result,
                (
                    *_figures(group, result, baseline, limits, simulated),
                    _same_text(group, result, same),
                ),
            )
            for result in group.arms
        ]
        found.append(GroupRows(group, tuple(rows), same))
    return found


def receipt_anchor(result: ArmResult) -> str:
    """Where the page has the receipt of this arm at this setting."""
    return f"receipt-{result.number}"


def _figures(
    group: Group,
    result: ArmResult,
    baseline: str | None,
    limits: Limits,
    simulated: Mapping[int, ArmResult],
) -> list[Cell]:
    summary = summarise(result, limits)
    cells = [_times(each) for each in (summary.ttft, summary.tbt, summary.gap)]
    if baseline is not None:
        against = group.arm(baseline)
        cells += [
            _ratio(paired_ratio(result, against, measure) if against else None)
            for measure in (median_ttft_s, mean_tbt_s)
        ]
    if simulated:
        twin = simulated.get(result.number)
        beside = twin and summarise(twin, limits)
        cells.append(
            _beside((summary.ttft, summary.tbt), (beside.ttft, beside.tbt))
            if beside
            else Cell(NONE)
        )
    accepted = " ".join(f"{100 * share:.0f}" for share in summary.acceptance)
    rounds = Cell(NONE if summary.accept_length is None else f"{summary.accept_length:.2f}")
    if not group.model.has_real_weights and summary.tbt:
        rounds = Cell(NONE, f"{group.weights}: not shown")
    elif accepted:
        rounds = Cell(rounds.text, f"{accepted} %")
    up, down = num_bytes(summary.bytes_up_per_token), num_bytes(summary.bytes_down_per_token)
    step, spread = summary.cloud_step_mean_s, summary.cloud_step_deviation_s
    goodput = "" if summary.goodput_per_s is None else f"{summary.goodput_per_s:.3g}/s"
    return [
        *cells,
        rounds,
        Cell(NONE) if (up, down) == (NONE, NONE) else Cell(up, f"down {down}"),
        Cell(NONE) if step is None else Cell(milliseconds(step), f"± {milliseconds(spread)}"),
        Cell(percent(summary.sla), goodput),
    ]


def _times(quantiles: Quantiles | None) -> Cell:
    if quantiles is None:
        return Cell(NONE)
    rest = (milliseconds(quantiles.p90), milliseconds(quantiles.p99))
    return Cell(milliseconds(quantiles.p50), " · ".join(rest))


def _ratio(ratio: Ratio | None) -> Cell:
    if ratio is None:
        return Cell(NONE)
    spread = f"{ratio.least:.2f} · {ratio.greatest:.2f}" if ratio.num > 1 else "one pass"
    return Cell(f"{ratio.median:.2f}", spread)


def _beside(live: tuple[Quantiles | None, ...], sim: tuple[Quantiles | None, ...]) -> Cell:
    apart = [a.p50 / b.p50 - 1 for a, b in zip(sim, live, strict=True) if a and b and b.p50]
    if not apart:
        return Cell(NONE)
    is_close = all(abs(each) <= SIM_TOLERANCE for each in apart)
    return Cell(" · ".join(map(signed_percent, apart)), "", "good" if is_close else "bad")


def _same_text(group: Group, result: ArmResult, same: Mapping[str, Agreement]) -> Cell:
    if group.workload.temperature > 0:
        return Cell("sampled")
    agreement = same.get(result.arm)
    if agreement is None:
        is_reference = any(each.reference == result.arm for each in same.values())
        return Cell("reference" if is_reference else NONE)
    if agreement.num_different:
        return Cell(f"{agreement.num_different} of {agreement.num_compared} differ", "", "bad")
    return Cell("same", f"{agreement.num_compared} compared", "good")
