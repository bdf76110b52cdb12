"""What the page's one table says of an arm at a setting; heads and meanings are in the template."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench import measures
from bench.report.figures import (
    Limits,
    Measure,
    agreements,
    mean_tbt_s,
    median_ttft_s,
    paired_ratios,
    served_well,
    text_compared,
    twin_of,
)
from bench.report.formats import NONE, milliseconds, num_bytes, percent
from bench.report.groups import ArmResult, Group, Quantiles

SIM_TOLERANCE = 0.10
"""What the simulator is held to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One figure, what stands small beside it, and whether it is good, bad or neither."""

    text: str = NONE
    small: str = ""
    mark: str = ""


def table(
    groups: Sequence[Group], baseline: str | None, limits: Limits
) -> dict[int, dict[str, Entry]]:
    """Of every arm, by its number: an entry for each head; all have the same heads."""
    twins = {group.number: twin_of(group, groups) for group in groups}
    rows = {}
    for group in groups:
        against, twin = group.arm(baseline), twins[group.number]
        for result in group.arms:
            row = rows[result.number] = {
                "TTFT, ms": _times(result.ttft),
                "TBT, ms": _times(result.tbt),
                "between pieces, ms": _times(result.gap),
            }
            if baseline is not None:
                row[f"TTFT ÷ {baseline}"] = _ratio(result, against, median_ttft_s)
                row[f"TBT ÷ {baseline}"] = _ratio(result, against, mean_tbt_s)
            if any(twins.values()):
                row["simulated"] = _simulated(result, twin.arm(result.arm) if twin else None)
            row["tokens per round"] = _per_round(group, result)
            row["bytes per token"] = _bytes(result)
            row["cloud step, ms"] = _step(result)
            row["within limits"] = _within(result, limits)
            row["text"] = _text(group, result.arm)
    return rows


def _times(each: Quantiles | None) -> Entry:
    if each is None:
        return Entry()
    return Entry(milliseconds(each.p50), f"{milliseconds(each.p90)} · {milliseconds(each.p99)}")


def _ratio(result: ArmResult, against: ArmResult | None, measure: Measure) -> Entry:
    ratios = paired_ratios(result, against, measure)
    if not ratios:
        return Entry()
    spread = f"{min(ratios):.2f} · {max(ratios):.2f}" if len(ratios) > 1 else "one pass"
    return Entry(f"{statistics.median(ratios):.2f}", spread)


def _simulated(live: ArmResult, twin: ArmResult | None) -> Entry:
    """How far the medians of TTFT and TBT are from the live ones."""
    if twin is None:
        return Entry()
    pairs = ((twin.ttft, live.ttft), (twin.tbt, live.tbt))
    apart = [ours.p50 / theirs.p50 - 1 for ours, theirs in pairs if ours and theirs]
    is_close = all(abs(each) <= SIM_TOLERANCE for each in apart)
    text = " · ".join(percent(each, "+") for each in apart)
    return Entry(text or NONE, "", "good" if is_close else "bad")


def _per_round(group: Group, result: ArmResult) -> Entry:
    if not group.like.model.has_real_weights and result.tbt:
        return Entry(NONE, f"{group.weights}: not shown")
    if result.accept_length is None:
        return Entry()
    accepted = " ".join(f"{100 * share:.0f}" for share in result.acceptance)
    return Entry(f"{result.accept_length:.2f}", f"{accepted} %")


def _bytes(result: ArmResult) -> Entry:
    up = measures.bytes_up_per_token(result.answered)
    down = measures.bytes_down_per_token(result.answered)
    return Entry() if up is None else Entry(num_bytes(up), f"down {num_bytes(down)}")


def _step(result: ArmResult) -> Entry:
    steps_s = [seconds for cell in result.cells for seconds in cell.cloud_step_s]
    if not steps_s:
        return Entry()
    deviation_s = statistics.pstdev(steps_s)
    return Entry(milliseconds(statistics.fmean(steps_s)), f"± {milliseconds(deviation_s)}")


def _within(result: ArmResult, limits: Limits) -> Entry:
    served = served_well(result, limits)
    return Entry() if served is None else Entry(percent(served[0]), f"{served[1]:.3g}/s")


def _text(group: Group, arm: str) -> Entry:
    text, agreement = text_compared(group, arm), agreements(group).get(arm)
    if agreement is None or agreement.num_different:
        return Entry(text, "", "" if agreement is None else "bad")
    return Entry(text, f"{agreement.num_compared} compared", "good")
