"""Parts of Markdown files between two markers, which benchmarks write anew."""

import os
from pathlib import Path

from bench.report.figures import ReportError


def markers(name: str) -> tuple[str, str]:
    """The lines around the part of that name."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def has_part(file: Path, name: str) -> bool:
    """Whether a file has a part of that name, or half of one."""
    text = file.read_text("utf-8")
    return any(marker in text for marker in markers(name))


def write_between(file: Path, name: str, part: str) -> None:
    """Put lines between the markers of that name; the rest of the file stays as it is.

    Raises:
        ReportError: the markers are not there exactly once and in order.
        OSError: the file cannot be read or written.
    """
    begin, end = markers(name)
    text = file.read_text("utf-8")
    before, found, rest = text.partition(begin)
    _, found_too, after = rest.partition(end)
    if not (found and found_too) or text.count(begin) + text.count(end) != 2:
        raise ReportError(f"{file}: expected one line {begin} and after it one line {end}")
    written = file.with_name(f".{file.name}.new")
    written.write_text(f"{before}{begin}\n{part}{end}{after}", "utf-8")
    written.chmod(file.stat().st_mode)
    os.replace(written, file)
