"""The README's table: a Markdown table of results between two markers of a file."""

import os
from collections.abc import Sequence
from pathlib import Path

from bench.report import formats
from bench.report.figures import (
    Limits,
    Quantiles,
    Summary,
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
    lines = [
        f"**{group.model.name}**{weights}, {group.setting} (link: {group.link.kind}), "
        f"{_choice(group)}.",
        "",
    ]
    with_ratio = group.arm(baseline) is not None
    ratio = [f"TTFT ÷ {baseline}"] if with_ratio else []
    lines.append(
        _line("arm", "TTFT, ms (P50 / P99)", *ratio, "TBT, ms (P50 / P99)", "tokens/round", "text")
    )
    lines.append("|---" * (5 + with_ratio) + "|")
    for result in group.arms:
        summary = summarise(result, Limits())
        cells = [_ratio(group, result, baseline)] if with_ratio else []
        lines.append(
            _line(
                f"`{result.arm}`",
                _times(summary.ttft),
                *cells,
                _times(summary.tbt),
                _accepted(summary),
                _text(group, result),
            )
        )
    return "\n".join([*lines, ""])


def _medians(groups: Sequence[Group]) -> str:
    arms = list(dict.fromkeys(result.arm for group in groups for result in group.arms))
    lines = ["Median TTFT / median TBT in ms, every setting:", ""]
    lines += [_line("setting", *(f"`{arm}`" for arm in arms)), "|---" * (1 + len(arms)) + "|"]
    for group in groups:
        summaries = {result.arm: summarise(result, Limits()) for result in group.arms}
        cells = [_both(summaries.get(arm)) for arm in arms]
        weights = "" if group.model.has_real_weights else f" ({group.weights})"
        lines.append(_line(group.name + weights, *cells))
    return "\n".join([*lines, ""])


def _both(summary: Summary | None) -> str:
    if summary is None or summary.ttft is None:
        return formats.NONE
    first = formats.milliseconds(summary.ttft.p50)
    return f"{first} / {formats.milliseconds(summary.tbt.p50 if summary.tbt else None)}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _times(quantiles: Quantiles | None) -> str:
    if quantiles is None:
        return formats.NONE
    return f"{formats.milliseconds(quantiles.p50)} / {formats.milliseconds(quantiles.p99)}"


def _ratio(group: Group, result: ArmResult, baseline: str | None) -> str:
    against = group.arm(baseline)
    ratio = paired_ratio(result, against, median_ttft_s) if against else None
    return formats.NONE if ratio is None else f"{ratio.median:.2f}"


def _accepted(summary: Summary) -> str:
    return formats.NONE if summary.accept_length is None else f"{summary.accept_length:.2f}"


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
