"""`hat bench report`: result files into one page."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hat.errors import CommandError, extras_explained
from hat.settings.options import FiniteRange

if TYPE_CHECKING:
    from bench.report.figures import Limits
    from bench.report.page import Written

_EPILOG = """
\b
Examples:
  hat bench report results/live.json --out report
  hat bench report results/*.json --out report --baseline cloud-only

Files of the same settings are set side by side, simulated ones beside live ones. The page is one
file that needs no network; the pictures are beside it as PNGs.
"""


@click.command(name="report", epilog=_EPILOG)
@click.argument("results", nargs=-1, required=True, metavar="RESULTS.json...")
@click.option(
    "--out",
    default="report",
    metavar="DIR",
    help="Folder for report.html and pictures/.  [default: report]",
)
@click.option(
    "--baseline",
    metavar="ARM",
    help="Arm that the others are compared with.  [default: u-shape, or cloud-only]",
)
@click.option(
    "--ttft-limit",
    type=FiniteRange(min=0, min_open=True),
    default=1.0,
    metavar="SECONDS",
    help="Most time to the first piece of text that counts as good.  [default: 1]",
)
@click.option(
    "--tbt-limit",
    type=FiniteRange(min=0, min_open=True),
    default=0.1,
    metavar="SECONDS",
    help="Most mean time between tokens that counts as good.  [default: 0.1]",
)
@click.option(
    "--table",
    metavar="FILE",
    help="Also write a table between the lines <!-- bench:begin --> and <!-- bench:end --> of a "
    "Markdown file, and the first model link by link between <!-- bench-links:begin --> and "
    "<!-- bench-links:end --> where it has these.",
)
@click.option("--chart", metavar="FILE.svg", help="Also draw the first model's arms, link by link.")
def report(
    results: tuple[str, ...],
    out: str,
    baseline: str | None,
    ttft_limit: float,
    tbt_limit: float,
    table: str | None,
    chart: str | None,
) -> None:
    """Write what benchmarks measured as one HTML page and PNGs.

    RESULTS are files of `hat bench live` and `hat bench sim`.
    """
    with extras_explained():
        from bench.report.figures import Limits

        paths, limits = [Path(name) for name in results], Limits(ttft_limit, tbt_limit)
        written = _write(paths, Path(out), baseline, limits)
        _write_beside(paths, baseline, table, chart)
    click.echo(f"Wrote {written.page} and {len(written.pictures)} pictures.")
    if written.num_wrong:
        click.echo(f"{written.num_wrong} things are wrong; they stand at the top of the page.")


def _write(paths: list[Path], out: Path, baseline: str | None, limits: "Limits") -> "Written":
    from bench.report.page import write_report

    with _writing():
        return write_report(paths, out, baseline, limits)


def _write_beside(
    paths: list[Path], baseline: str | None, table: str | None, chart: str | None
) -> None:
    from bench.report.readme_table import write_chart, write_tables

    with _writing():
        if table is not None:
            write_tables(paths, Path(table), baseline)
        if chart is not None:
            write_chart(paths, Path(chart))


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot write {error.filename}: {error.strerror}") from error
