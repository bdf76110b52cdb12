"""From result files to a folder: one HTML page that asks nothing of the network, and its charts."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measures import output_sha256
from bench.report import figures, formats
from bench.report.cautions import cautions
from bench.report.charts import charts
from bench.report.figures import Limits, Measure, agreements, find_baseline, paired_ratios
from bench.report.groups import LIVE, Group, group_cells, read_sources
from bench.report.sweeps import sweeps_chart
from bench.report.table import SIM_TOLERANCE, table

METHOD = "hat"


@dataclass(frozen=True, slots=True)
class Written:
    """Where the report is."""

    page: Path
    pictures: tuple[Path, ...]
    num_wrong: int


@dataclass(frozen=True, slots=True)
class Headline:
    """One of the three figures at the top. `mark`: good, bad or neither."""

    value: str
    about: str
    note: str
    mark: str = ""


def write_report(paths: Sequence[Path], out: Path, baseline: str | None, limits: Limits) -> Written:
    """Read result files and write the page and its charts; what is there is replaced.

    `baseline` None: u-shape where it was run, else cloud-only, else no ratios.

    Raises:
        RunFileError: a file is no run.
        ReportError: the baseline was not run.
        OSError: the folder cannot be written.
    """
    sources = read_sources(paths)
    groups = group_cells(sources)
    baseline = find_baseline(groups, baseline)
    # Before the drawing, which takes a while.
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    across = sweeps_chart(groups, limits)
    pictures = [*(charts(groups[0]) if groups else []), *([across] if across else [])]
    found = cautions(sources, groups)
    page = render(
        "page.html.jinja",
        sources=sources,
        groups=groups,
        rows=table(groups, baseline, limits),
        baseline=baseline,
        limits=limits,
        sim_tolerance=SIM_TOLERANCE,
        pictures=pictures,
        headlines=headlines(groups, baseline),
        cautions=found,
        output_sha256=output_sha256,
    )
    (out / "report.html").write_text(page, "utf-8")
    files = {folder / f"{each.name}.png": each.png for each in pictures}
    for file, png in files.items():
        file.write_bytes(png)
    return Written(out / "report.html", tuple(files), sum(each.is_wrong for each in found))


def render(template: str, **values: object) -> str:
    """A template of this folder, filled in; it knows `figures`, `formats` and `statistics`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report", ""),
        autoescape=jinja2.select_autoescape(("html.jinja",)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    known = {"figures": figures, "formats": formats, "statistics": statistics}
    return environment.get_template(template).render(known | values)


def headlines(groups: Sequence[Group], baseline: str | None) -> list[Headline]:
    """TTFT and TBT of the method against the baseline, and whether the texts are the same."""
    of_kind = [group for group in groups if group.kind == LIVE] or groups
    linked = [group for group in of_kind if group.like.link.kind != "loopback"] or of_kind
    real = [group for group in linked if group.like.model.has_real_weights]
    tbt = "TBT, mean" if real else "TBT, mean, assumed"
    found = [
        _against("TTFT, median", linked, baseline, figures.median_ttft_s),
        _against(tbt, real or linked, baseline, figures.mean_tbt_s),
    ]
    return [*(each for each in found if each is not None), _texts(groups)]


def _against(
    what: str, groups: Sequence[Group], baseline: str | None, measure: Measure
) -> Headline | None:
    """The median over settings that have both arms; of a single arm its own time."""
    arms = {result.arm for group in groups for result in group.arms}
    method = METHOD if METHOD in arms else min(arms - {baseline}, default=None)
    ratios = {}
    for group in groups if method != baseline else ():
        if own := paired_ratios(group.arm(method), group.arm(baseline), measure):
            ratios[group.number] = statistics.median(own)
    if ratios:
        over, first = list(ratios.values()), next(each for each in groups if each.number in ratios)
        note = f"{min(over):.2f} to {max(over):.2f} over {len(over)} settings"
        note = note if len(over) > 1 else f"at {first.name}"
        about = f"{what}: {method} over {baseline}, {first.kind}"
        return Headline(f"{statistics.median(over):.2f}\u202f\u00d7", about, note)
    for group in groups:
        result = group.arm(method)
        if result is not None and (value := measure(result.answered)) is not None:
            about = f"{what}: {method}, {group.kind}"
            return Headline(f"{formats.milliseconds(value)} ms", about, group.name)
    return None


def _texts(groups: Sequence[Group]) -> Headline:
    found = [each for group in groups for each in agreements(group).values()]
    num = sum(each.num_compared for each in found)
    different = sum(each.num_different for each in found)
    if num:
        note = f"{different} differ" if different else "compared by hash; none differs"
        about = "greedy answers with the text of the first arm"
        return Headline(f"{num - different} of {num}", about, note, "bad" if different else "good")
    results = [result for group in groups for result in group.arms]
    total = sum(len(result.requests) for result in results)
    failed = sum(result.num_failed for result in results)
    mark = "bad" if failed else ""
    return Headline(
        f"{total - failed} of {total}", "requests answered", "no texts to compare", mark
    )
