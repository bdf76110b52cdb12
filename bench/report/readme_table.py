"""The README's table: a Markdown table of results between two markers of a file."""

import os
from collections.abc import Sequence
from pathlib import Path

from bench.report import formats
from bench.report.figures import (
    Limits,
    Quantiles,
    default_baseline,
    median_ttft_s,
    paired_ratio,
    summarise,
)
from bench.report.groups import LIVE, ArmResult, Group, Source, group_cells, read_sources
from bench.report.rows import same_text
from process.errors import UserError

BEGIN = "<!-- bench:begin -->"
END = "<!-- bench:end -->"


class TableError(UserError):
    """The table has no place in the file, or nothing to show; the message says which."""


def write_table(paths: Sequence[Path], into: Path, baseline: str | None = None) -> None:
    """Put the table of these files between the markers; the rest of the file stays as it is.

    Raises:
        RunFileError: one of `paths` is no run.
        TableError: the markers are not there exactly once and in order, or there are no results.
        OSError: the file cannot be read or written.
    """
    text = into.read_text("utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or end < begin:
        raise TableError(f"{into}: expected one line {BEGIN} and after it one line {END}")
    table = markdown_table(read_sources(paths), baseline)
    changed = f"{text[: begin + len(BEGIN)]}\n{table}{text[end:]}"
    written = into.with_name(f".{into.name}.new")
    written.write_text(changed, "utf-8")
    written.chmod(into.stat().st_mode)
    os.replace(written, into)


def markdown_table(sources: Sequence[Source], baseline: str | None = None) -> str:
    """The first setting in full, medians of all where there are more, and where they come from.

    Live settings only, where there are any.

    Raises:
        TableError: there are no results.
    """
    groups = group_cells(sources)
    shown = [group for group in groups if group.kind == LIVE] or groups
    if not shown:
        raise TableError("expected results, got files without cells")
    against = baseline or default_baseline(shown)
    parts = [_setting(shown[0], against)]
    if len(shown) > 1:
        parts.append(_medians(shown))
    return "\n".join([*parts, _origin(sources, shown)])


def _setting(group: Group, baseline: str | None) -> str:
    weights = "" if group.model.has_real_weights else f" with {group.weights}"
    temperature = group.workload.temperature
    how = "greedy" if temperature == 0 else f"sampled at temperature {temperature:g}"
    title = f"**{group.model.name}**{weights}, {group.setting} (link: {group.link.kind}), {how}."
    against = group.arm(baseline)
    ratio = [f"TTFT ÷ {baseline}"] if against else []
    rows = [["arm", "TTFT, ms (P50 / P99)", *ratio, "TBT, ms (P50 / P99)", "tokens/round", "text"]]
    for result in group.arms:
        summary = summarise(result, Limits())
        paired = paired_ratio(result, against, median_ttft_s) if against else None
        ratio = [_or_none(f"{paired.median:.2f}" if paired else "")] if against else []
        accepted = f"{summary.accept_length:.2f}" if summary.accept_length else ""
        times = [_times(each) for each in (summary.ttft, summary.tbt)]
        cells = [times[0], *ratio, times[1], _or_none(accepted), _text(group, result)]
        rows.append([f"`{result.arm}`", *cells])
    return f"{title}\n\n{_table(rows)}"


def _medians(groups: Sequence[Group]) -> str:
    arms = list(dict.fromkeys(result.arm for group in groups for result in group.arms))
    rows = [["setting", *(f"`{arm}`" for arm in arms)]]
    for group in groups:
        weights = "" if group.model.has_real_weights else f" ({group.weights})"
        results = [group.arm(arm) for arm in arms]
        rows.append([group.name + weights, *(_both(each) for each in results)])
    return f"Median TTFT / median TBT in ms, every setting:\n\n{_table(rows)}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |\n" for cells in rows]
    return "".join([lines[0], "|---" * len(rows[0]) + "|\n", *lines[1:]])


def _both(result: ArmResult | None) -> str:
    summary = result and summarise(result, Limits())
    if not summary or summary.ttft is None:
        return formats.NONE
    first = formats.milliseconds(summary.ttft.p50)
    return f"{first} / {formats.milliseconds(summary.tbt.p50 if summary.tbt else None)}"


def _times(each: Quantiles | None) -> str:
    if each is None:
        return formats.NONE
    return f"{formats.milliseconds(each.p50)} / {formats.milliseconds(each.p99)}"


def _or_none(text: str) -> str:
    return text or formats.NONE


def _text(group: Group, result: ArmResult) -> str:
    cell = same_text(group, result)
    text = f"**{cell.text}**" if cell.mark == "bad" else cell.text
    return text + (f"; {result.num_failed} failed" if result.num_failed else "")


def _choice(group: Group) -> str:
    temperature = group.workload.temperature
    return "greedy" if temperature == 0 else f"sampled at temperature {temperature:g}"


def _origin(sources: Sequence[Source], groups: Sequence[Group]) -> str:
    """Commit, machine and command of every file that the tables are from."""
    used = {each.source.number for group in groups for arm in group.arms for each in arm.placed}
    lines = []
    for source in sources:
        receipt = source.run.receipt
        if source.number in used:
            load = receipt.load_average
            loaded = "" if load is None else f", load average {load:.1f} before"
            lines.append(
                f"Measured by `{' '.join(receipt.command)}`, seed {receipt.seed}, on "
                f"{receipt.hardware}, {receipt.num_cores} cores{loaded}, commit {receipt.commit}."
            )
    return "\n".join([*lines, ""])
