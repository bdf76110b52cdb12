"""From files to a folder with the page and its pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.report.across_charts import load_picture, prompt_picture, round_trip_picture
from bench.report.cautions import cautions
from bench.report.drawing import Picture, drawing_style
from bench.report.groups import Group, Source, group_cells, read_sources
from bench.report.page import PageContent, render_page
from bench.report.palette import Look, looks
from bench.report.ratios import default_baseline
from bench.report.series import LoadSeries, load_series, tbt_over_rtt, ttft_over_prompt
from bench.report.setting_charts import setting_pictures
from bench.report.side_by_side import paper_rows, simulated_rows
from bench.report.summary import Limits
from bench.report.timeline import timeline
from bench.report.views import Reading, group_view

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
    arm_looks = looks(result.arm for group in groups for result in group.arms)
    # Before the drawing, which takes a while.
    folder = out / PICTURES_NAME
    folder.mkdir(parents=True, exist_ok=True)
    with drawing_style():
        content = _content(sources, groups, Reading(arm_looks, options.limits, baseline))
    pictures = [picture for picture, _ in content.across]
    pictures += [picture for view in content.views for picture in view.pictures]
    for picture in pictures:
        picture.write_png(folder)
    page = out / PAGE_NAME
    page.write_text(render_page(content), "utf-8")
    names = tuple(folder / f"{picture.name}.png" for picture in pictures)
    return Written(page, names, sum(caution.is_wrong for caution in content.cautions))


def _content(sources: Sequence[Source], groups: Sequence[Group], reading: Reading) -> PageContent:
    loads = load_series(groups, reading.limits)
    under_load = {group.number for series in loads for group in series.groups}
    simulated = simulated_rows(groups)
    twins = {row.sim.number for row in simulated}
    plain = [group for group in groups if group.number not in under_load]
    views = []
    for place, group in enumerate(plain):
        # A simulated twin's pictures would say what those of the live one say.
        is_twin = all(result.number in twins for result in group.arms)
        pictures = () if is_twin else _pictures(group, reading.looks)
        view = group_view(group, reading, pictures)
        is_open = place == 0 or len(plain) <= _MOST_OPEN
        views.append(replace(view, is_open=is_open, is_twin=is_twin))
    untwinned = [view.group for view in views if not view.is_twin]
    return PageContent(
        sources=sources,
        views=views,
        load_views=[group_view(each, reading) for each in groups if each.number in under_load],
        across=_across(untwinned, loads, reading.looks),
        simulated=simulated,
        paper=paper_rows(sources),
        cautions=cautions(sources, groups),
        limits=reading.limits,
        baseline=reading.baseline,
    )


def _pictures(group: Group, arm_looks: Mapping[str, Look]) -> list[Picture]:
    lanes = timeline(group)
    return setting_pictures(group, arm_looks) + ([] if lanes is None else [lanes])


def _across(
    groups: Sequence[Group], loads: Sequence[LoadSeries], arm_looks: Mapping[str, Look]
) -> list[tuple[Picture, Sequence[Group]]]:
    prompts, trips = ttft_over_prompt(groups), tbt_over_rtt(groups)
    return [
        *((prompt_picture(each, arm_looks, n), each.groups) for n, each in enumerate(prompts, 1)),
        *((round_trip_picture(each, arm_looks, n), each.groups) for n, each in enumerate(trips, 1)),
        *((load_picture(each, arm_looks, n), each.groups) for n, each in enumerate(loads, 1)),
    ]


def _checked_baseline(groups: Sequence[Group], name: str | None) -> str | None:
    if name is None:
        return default_baseline(groups)
    arms = sorted({result.arm for group in groups for result in group.arms})
    if name not in arms:
        raise ReportError(f"expected a baseline among {', '.join(arms) or 'no arms'}, got {name}")
    return name
