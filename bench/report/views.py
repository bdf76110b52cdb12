"""What the page shows of each setting, as text and links; the template only places it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.report import formats
from bench.report.cautions import anchor_of
from bench.report.drawing import Picture
from bench.report.groups import ArmResult, Group
from bench.report.palette import Look
from bench.report.ratios import Ratio, mean_tbt_s, median_ttft_s, paired_ratio
from bench.report.same_text import Agreement, agreements
from bench.report.summary import Limits, Quantiles, Summary, summarise

GOOD, BAD, PLAIN = "good", "bad", ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How results are told: each arm's look, the limits, and the arm that others stand against."""

    looks: Mapping[str, Look]
    limits: Limits
    baseline: str | None


@dataclass(frozen=True, slots=True)
class Value:
    """A number with the receipt it links to; `title` is what a pointer sees."""

    text: str
    anchor: str = ""
    title: str = ""
    mark: str = PLAIN


@dataclass(frozen=True, slots=True)
class ArmRow:
    """A line of a setting's tables."""

    arm: str
    colour: str
    anchor: str
    times: tuple[Value, ...]
    ratios: tuple[Value, ...]
    text: Value
    rest: tuple[Value, ...]
    acceptance: tuple[float, ...]
    summary: Summary


@dataclass(frozen=True, slots=True)
class GroupView:
    """A setting with its tables and pictures. `is_twin`: simulated, and shown beside live."""

    group: Group
    anchor: str
    rows: tuple[ArmRow, ...]
    pictures: tuple[Picture, ...]
    is_open: bool = False
    is_twin: bool = False


@dataclass(frozen=True, slots=True)
class Matrix:
    """One quantity, settings down and arms across."""

    title: str
    arms: tuple[str, ...]
    rows: tuple[tuple[Group, tuple[Value, ...]], ...]


def arm_anchor(result: ArmResult) -> str:
    """Where the page has the receipt of this arm at this setting."""
    return f"receipt-{result.number}"


def group_view(group: Group, reading: Reading, pictures: Sequence[Picture] = ()) -> GroupView:
    """Tables of one setting, folded."""
    same = agreements(group)
    rows = [_arm_row(group, result, reading, same) for result in group.arms]
    return GroupView(group, anchor_of(group), tuple(rows), tuple(pictures))


def matrices(views: Sequence[GroupView]) -> list[Matrix]:
    """Median TTFT and TBT of every setting at a glance; none for a single setting."""
    arms = tuple(dict.fromkeys(row.arm for view in views for row in view.rows))
    if len(views) < 2:
        return []
    found = []
    for title, place in (("Median TTFT, ms", 0), ("Median TBT per token, ms", 3)):
        lines = []
        for view in views:
            by_arm = {row.arm: row.times[place] for row in view.rows}
            lines.append((view.group, tuple(by_arm.get(arm, Value("")) for arm in arms)))
        found.append(Matrix(title, arms, tuple(lines)))
    return found


def _arm_row(
    group: Group, result: ArmResult, reading: Reading, same: Mapping[str, Agreement]
) -> ArmRow:
    summary, anchor = summarise(result, reading.limits), arm_anchor(result)
    times = [
        Value(formats.milliseconds(value), anchor)
        for each in (summary.ttft, summary.tbt, summary.gap)
        for value in _three(each)
    ]
    against = group.arm(reading.baseline)
    ratios = [
        _ratio(paired_ratio(result, against, measure) if against else None, anchor, result.arm)
        for measure in (median_ttft_s, mean_tbt_s)
        if result.arm != reading.baseline
    ]
    return ArmRow(
        arm=result.arm,
        colour=f"var(--c{reading.looks[result.arm].colour[1:]})",
        anchor=anchor,
        times=tuple(times),
        ratios=tuple(ratios) or (Value("1"), Value("1")),
        text=_same_text(group, result, same, anchor),
        rest=_rest(summary, anchor),
        acceptance=summary.acceptance or (),
        summary=summary,
    )


def _three(quantiles: Quantiles | None) -> tuple[float | None, ...]:
    return (None,) * 3 if quantiles is None else (quantiles.p50, quantiles.p90, quantiles.p99)


def _ratio(ratio: Ratio | None, anchor: str, arm: str) -> Value:
    if ratio is None:
        return Value(formats.NONE)
    title = f"{arm}: median of {ratio.num_pairs} paired ratios" if ratio.num_pairs > 1 else ""
    text = f"{ratio.median:.2f}"
    if ratio.num_pairs > 1:
        text += f" ({ratio.least:.2f}\u2013{ratio.greatest:.2f})"
    return Value(text, anchor, title or f"{arm}: one pair, no spread")


def _same_text(
    group: Group, result: ArmResult, same: Mapping[str, Agreement], anchor: str
) -> Value:
    if group.workload.temperature > 0:
        return Value("sampled")
    agreement = same.get(result.arm)
    if agreement is None:
        is_reference = any(each.reference == result.arm for each in same.values())
        return Value("reference" if is_reference else formats.NONE)
    title = f"{agreement.num_compared} answers compared with those of {agreement.reference}"
    if agreement.num_different:
        text = f"{agreement.num_different} of {agreement.num_compared} differ"
        return Value(text, anchor, title, BAD)
    return Value("same", anchor, title, GOOD)


def _rest(summary: Summary, anchor: str) -> tuple[Value, ...]:
    mean_s, deviation_s = summary.cloud_step_mean_s, summary.cloud_step_deviation_s
    step = formats.milliseconds(mean_s)
    if mean_s is not None:
        step += f" \u00b1 {formats.milliseconds(deviation_s)}"
    texts = (
        formats.NONE if summary.accept_length is None else f"{summary.accept_length:.2f}",
        formats.num_bytes(summary.bytes_up_per_token),
        formats.num_bytes(summary.bytes_down_per_token),
        step,
        formats.percent(summary.sla),
        formats.NONE if summary.goodput_per_s is None else f"{summary.goodput_per_s:.3g}",
    )
    return tuple(Value(text, "" if text == formats.NONE else anchor) for text in texts)
