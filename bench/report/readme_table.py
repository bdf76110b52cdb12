"""The table between two markers of a Markdown file; the README has three rows of docs/'s."""

import os
from collections.abc import Sequence
from pathlib import Path

from bench.report.figures import ReportError, find_baseline
from bench.report.groups import LIVE, group_cells, read_sources
from bench.report.page import render

BEGIN = "<!-- bench:begin -->"
END = "<!-- bench:end -->"

README_ARMS = ("cloud-only", "u-shape", "hat")
"""Text in the cloud, plain split inference, and this project."""


def write_table(paths: Sequence[Path], into: Path, baseline: str | None = None) -> None:
    """Put the table of these files between the markers; the rest of the file stays as it is.

    It has the first setting in full, medians of all where there are more, and where they come
    from; live settings only, where there are any.

    Raises:
        RunFileError: one of `paths` is no run.
        ReportError: the markers are not there exactly once and in order, or there are no results.
        OSError: the file cannot be read or written.
    """
    sources = read_sources(paths)
    groups = group_cells(sources)
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
    _write_between(into, table)


def write_three_rows(page: Path, readme: Path) -> None:
    """Put `three_rows` of the page between the README's markers.

    Raises:
        ReportError: one of them has no place for tables, or the page's has not all these arms.
    """
    _write_between(readme, three_rows(page))


def three_rows(page: Path) -> str:
    """The head of the first table between a page's markers, and its rows of `README_ARMS`.

    Raises:
        ReportError: there is no such table, or it has not all these arms.
    """
    setting, _, table = _parts(page)[1].strip().partition("\n\n")
    head, line, *rows = table.partition("\n\n")[0].splitlines()
    kept = [row for row in rows if row.startswith(tuple(f"| `{arm}` |" for arm in README_ARMS))]
    if len(kept) != len(README_ARMS):
        expected = f"expected rows of {', '.join(README_ARMS)}"
        raise ReportError(f"{page}: {expected}, found {len(kept)} of them")
    return "\n".join([setting, "", head, line, *kept, ""])


def _parts(file: Path) -> tuple[str, str, str]:
    """What stands before, between and after the markers."""
    text = file.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not (begin and end) or text.count(BEGIN) + text.count(END) != 2:
        raise ReportError(f"{file}: expected one line {BEGIN} and after it one line {END}")
    return before, between, after


def _write_between(file: Path, text: str) -> None:
    before, _, after = _parts(file)
    written = file.with_name(f".{file.name}.new")
    written.write_text(f"{before}{BEGIN}\n{text}{END}{after}", "utf-8")
    written.chmod(file.stat().st_mode)
    os.replace(written, file)
