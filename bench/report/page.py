"""From result files to a folder: one HTML page that asks nothing of the network, and its charts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from bench.measures import output_sha256
from bench.records import RequestRecord
from bench.report import formats
from bench.report.cautions import anchor_of, cautions
from bench.report.charts import charts
from bench.report.figures import (
    Limits,
    agreements,
    default_baseline,
    mean_tbt_s,
    median_ttft_s,
    paired_ratio,
    ratio_of,
    summaries,
)
from bench.report.groups import LIVE, SIM, Group, group_cells, read_sources
from bench.report.rows import table
from bench.report.sweeps import sweeps_chart
from process.errors import UserError

PAGE_NAME = "report.html"
PICTURES_NAME = "pictures"
METHOD = "hat"


class ReportError(UserError):
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


@dataclass(frozen=True, slots=True)
class Headline:
    """One of the three figures at the top. `mark`: good, bad or neither."""

    value: str
    about: str
    note: str
    mark: str = ""


def write_report(paths: Sequence[Path], out: Path, options: ReportOptions) -> Written:
    """Read result files and write the page and its charts; what is there is replaced.

    Raises:
        RunFileError: a file is no run.
        ReportError: the baseline was not run.
        OSError: the folder cannot be written.
    """
    import jinja2
    from markupsafe import Markup

    sources = read_sources(paths)
    groups = group_cells(sources)
    baseline = _checked_baseline(groups, options.baseline)
    # Before the drawing, which takes a while.
    folder = out / PICTURES_NAME
    folder.mkdir(parents=True, exist_ok=True)
    figures = summaries(groups, options.limits)
    shown = [*(charts(groups[0]) if groups else []), sweeps_chart(groups, figures)]
    pictures = [each for each in shown if each is not None]
    found = cautions(sources, groups)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_text("page.html.jinja"))
    page = template.render(
        sources=sources,
        table=table(groups, baseline, figures),
        pictures=pictures,
        headlines=headlines(groups, baseline),
        cautions=found,
        limits=options.limits,
        num_requests=sum(len(result.requests) for group in groups for result in group.arms),
        css=Markup(_text("page.css")),
        formats=formats,
        anchor_of=anchor_of,
        output_hash=lambda cell: output_sha256(cell.requests)[:16],
    )
    (out / PAGE_NAME).write_text(page, "utf-8")
    names = tuple(folder / f"{each.name}.png" for each in pictures)
    for name, each in zip(names, pictures, strict=True):
        name.write_bytes(each.png)
    return Written(out / PAGE_NAME, names, sum(caution.is_wrong for caution in found))


def headlines(groups: Sequence[Group], baseline: str | None) -> list[Headline]:
    """TTFT and TBT of the method against the baseline, and whether the texts are the same."""
    kind = LIVE if any(group.kind == LIVE for group in groups) else SIM
    of_kind = [group for group in groups if group.kind == kind]
    linked = [group for group in of_kind if group.link.kind != "loopback"] or of_kind
    real = [group for group in linked if group.model.has_real_weights]
    return [
        *_against("TTFT, median", linked, baseline, median_ttft_s),
        *_against(
            "TBT, mean" + ("" if real else ", assumed"), real or linked, baseline, mean_tbt_s
        ),
        _texts(groups),
    ]


def _against(
    what: str,
    groups: Sequence[Group],
    baseline: str | None,
    measure: Callable[[Sequence[RequestRecord]], float | None],
) -> list[Headline]:
    """The median over settings that have both arms; of a single arm its own time."""
    arms = {result.arm for group in groups for result in group.arms}
    method = METHOD if METHOD in arms else next(iter(sorted(arms - {baseline})), None)
    pairs = [(group, group.arm(method), group.arm(baseline)) for group in groups]
    found = [
        (group, ratio.median)
        for group, ours, theirs in pairs
        if ours and theirs and ours is not theirs
        if (ratio := paired_ratio(ours, theirs, measure)) is not None
    ]
    over = ratio_of([ratio for _, ratio in found])
    if over is not None:
        where = found[0][0]
        note = f"{over.least:.2f} to {over.greatest:.2f} over {over.num} settings"
        note = note if over.num > 1 else f"at {where.name}"
        about = f"{what}: {method} over {baseline}, {where.kind}"
        return [Headline(f"{over.median:.2f}\u202f\u00d7", about, note)]
    for group, ours, _ in pairs:
        value = measure(ours.answered) if ours else None
        if value is not None:
            about = f"{what}: {method}, {group.kind}"
            return [Headline(f"{formats.milliseconds(value)} ms", about, group.name)]
    return []


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
    about, mark = "requests answered", "bad" if failed else ""
    return Headline(f"{total - failed} of {total}", about, "no texts to compare", mark)


def _text(name: str) -> str:
    return (files("bench.report") / name).read_text("utf-8")


def _checked_baseline(groups: Sequence[Group], name: str | None) -> str | None:
    if name is None:
        return default_baseline(groups)
    arms = sorted({result.arm for group in groups for result in group.arms})
    if name not in arms:
        raise ReportError(f"expected a baseline among {', '.join(arms) or 'no arms'}, got {name}")
    return name
