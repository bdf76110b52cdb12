"""From files to a folder with the page and its pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.report.across_charts import load_picture, prompt_picture, round_trip_picture
from bench.report.cautions import cautions
from bench.report.drawing import Picture, drawing_style
from bench.report.groups import Group, Source, group_cells, read_sources
from bench.report.page import PageContent, render_page
from bench.report.palette import Look, looks
from bench.report.ratios import default_baseline
from bench.report.series import load_series, tbt_over_rtt, ttft_over_prompt
from bench.report.setting_charts import setting_pictures
from bench.report.side_by_side import paper_rows, simulated_rows
from bench.report.summary import Limits
from bench.report.timeline import timeline
from bench.report.views import GroupView, group_view

PAGE_NAME = "report.html"
PICTURES_NAME = "pictures"
# With more settings than this, all but the first are folded.
_MOST_OPEN = 3


class ReportError(Exception):
    """The report cannot be made as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """`baseline` None: u-shape where it was run, else cloud-only, else no ratios."""

    baseline: str | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Written:
    """Where the report is."""

    page: Path
    pictures: tuple[Path, ...]
    num_wrong: int


def write_report(paths: Sequence[Path], out: Path, options: ReportOptions) -> Written:
    """Read result files and write the page and its pictures; what is there is replaced.

    Raises:
        RunFileError: a file is no run.
        ReportError: the baseline was not run.
        OSError: the folder cannot be written.
    """
    sources = read_sources(paths)
    groups = group_cells(sources)
    baseline = _checked_baseline(groups, options.baseline)
    # Before the drawing, which takes a while.
    folder = out / PICTURES_NAME
    folder.mkdir(parents=True, exist_ok=True)
    with drawing_style():
        content = _content(sources, groups, baseline, options.limits)
    pictures = [picture for picture, _ in content.across]
    pictures += [picture for view in content.views for picture in view.pictures]
    for picture in pictures:
        picture.write_png(folder)
    page = out / PAGE_NAME
    page.write_text(render_page(content), "utf-8")
    names = tuple(folder / f"{picture.name}.png" for picture in pictures)
    return Written(page, names, sum(caution.is_wrong for caution in content.cautions))


def _content(
    sources: Sequence[Source], groups: Sequence[Group], baseline: str | None, limits: Limits
) -> PageContent:
    arm_looks = looks(result.arm for group in groups for result in group.arms)
    loads = load_series(groups, limits)
    under_load = {group.number for series in loads for group in series.groups}
    plain = [group for group in groups if group.number not in under_load]
    simulated = simulated_rows(groups)
    # Their live twins have the pictures; twice as many would make a page that nobody reads.
    twins = {id(row.sim) for row in simulated}
    views = [
        _view(
            group,
            arm_looks,
            limits,
            baseline,
            is_open=place == 0 or len(plain) <= _MOST_OPEN,
            with_pictures=all(id(result) not in twins for result in group.arms),
        )
        for place, group in enumerate(plain)
    ]
    load_views = [
        group_view(group, arm_looks, limits, baseline, (), False)
        for group in groups
        if group.number in under_load
    ]
    across: list[tuple[Picture, Sequence[Group]]] = []
    for number, curves in enumerate(ttft_over_prompt(plain), start=1):
        across.append((prompt_picture(curves, arm_looks, number), curves.groups))
    for number, curves in enumerate(tbt_over_rtt(plain), start=1):
        across.append((round_trip_picture(curves, arm_looks, number), curves.groups))
    for number, series in enumerate(loads, start=1):
        across.append((load_picture(series, number), series.groups))
    return PageContent(
        sources=sources,
        views=views,
        load_views=load_views,
        across=across,
        simulated=simulated,
        paper=paper_rows(sources),
        cautions=cautions(sources, groups),
        limits=limits,
        baseline=baseline,
    )


def _view(
    group: Group,
    arm_looks: Mapping[str, Look],
    limits: Limits,
    baseline: str | None,
    is_open: bool,
    with_pictures: bool,
) -> GroupView:
    pictures = setting_pictures(group, arm_looks) if with_pictures else []
    lanes = timeline(group) if with_pictures else None
    shown = [*pictures, lanes] if lanes is not None else pictures
    return group_view(group, arm_looks, limits, baseline, shown, is_open)


def _checked_baseline(groups: Sequence[Group], name: str | None) -> str | None:
    if name is None:
        return default_baseline(groups)
    arms = sorted({result.arm for group in groups for result in group.arms})
    if name not in arms:
        raise ReportError(f"expected a baseline among {', '.join(arms) or 'no arms'}, got {name}")
    return name
