"""What benchmarks write into Markdown files: tables into docs/'s page, a chart into the README."""

from collections.abc import Sequence
from pathlib import Path

from bench.arms import NO_ADAPTER, WITH_ADAPTER
from bench.report.figures import ReportError, find_baseline
from bench.report.groups import LIVE, Group, Source, group_cells, read_sources
from bench.report.links import MARK as LINKS_MARK
from bench.report.links import links_tables, same_model
from bench.report.links_chart import links_chart, standalone
from bench.report.marked import has_part, write_between
from bench.report.page import render

MARK = "bench"


def write_tables(paths: Sequence[Path], into: Path, baseline: str | None = None) -> None:
    """Put the tables of these files between the markers; the rest of the file stays as it is.

    `bench` has the first setting in full, medians of all where there are more, and where they come
    from; live settings only, where there are any. `bench-links`, where the file has such a part,
    has the first model link by link, and its acceptance by category.

    Raises:
        RunFileError: one of `paths` is no run.
        ReportError: markers are not there exactly once and in order, or there are no results.
        OSError: the file cannot be read or written.
    """
    sources, groups = _read(paths)
    shown = [group for group in groups if group.kind == LIVE] or groups
    if not shown:
        raise ReportError("expected results, got files without cells")
    used = {cell.source.number for group in shown for arm in group.arms for cell in arm.placed}
    table = render(
        "table.md.jinja",
        groups=shown,
        baseline=baseline or find_baseline(shown, None),
        sources=[source for source in sources if source.number in used],
    )
    write_between(into, MARK, table)
    if has_part(into, LINKS_MARK):
        write_between(into, LINKS_MARK, links_tables(sources, groups))


def write_chart(paths: Sequence[Path], chart: Path) -> None:
    """Write the first model's chart, link by link, as an SVG file.

    Raises:
        RunFileError, ReportError, OSError: as `write_tables`.
    """
    chart.write_text(standalone(links_chart(_read(paths)[1])), "utf-8")


def write_readme(paths: Sequence[Path], readme: Path, chart: Path) -> None:
    """Put the chart between the README's markers, with what it shows in words.

    Raises:
        RunFileError, ReportError, OSError: as `write_tables`.
    """
    sources, groups = _read(paths)
    first = same_model(groups)[0]
    place = chart.relative_to(readme.parent).as_posix()
    receipt = _source_of(first, sources).run.receipt
    picture = links_chart(groups)
    load = first.like.workload
    kind = "questions" if load.is_chat else "prompts"
    words = (
        f"Measured by `make bench` on {receipt.hardware}, {receipt.num_cores} cores, one at each "
        f"end of the link: {load.num_requests} {kind} of {load.name}, "
        f"{load.max_output_tokens} greedy tokens each, the same text in every arm "
        f"(commit {receipt.commit}). No GPU takes part: one processor core computes the cloud's "
        "layers."
    )
    notes = method.cells[0].notes if (method := first.arm("hat")) else ()
    words += "".join(f" `hat` {note}." for note in (NO_ADAPTER, WITH_ADAPTER) if note in notes)
    write_between(readme, MARK, f"![{picture.caption}]({place})\n\n{words}\n")


def _source_of(group: Group, sources: Sequence[Source]) -> Source:
    number = group.arms[0].placed[0].source.number
    return next(source for source in sources if source.number == number)


def _read(paths: Sequence[Path]) -> tuple[list[Source], list[Group]]:
    sources = read_sources(paths)
    return sources, group_cells(sources)
