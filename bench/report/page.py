"""The page: one HTML file that asks nothing of the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from bench.measures import output_sha256
from bench.report import formats
from bench.report.cautions import Caution, anchor_of
from bench.report.drawing import Picture
from bench.report.groups import LIVE, SIM, Group, Source
from bench.report.palette import colours
from bench.report.same_text import agreements
from bench.report.side_by_side import PaperRow, SimulatedRow, is_close
from bench.report.summary import Limits
from bench.report.views import GroupView, arm_anchor, matrices


@dataclass(frozen=True, slots=True)
class PageContent:
    """All that the page shows. `across` are pictures over many settings, with those settings."""

    sources: Sequence[Source]
    views: Sequence[GroupView]
    load_views: Sequence[GroupView]
    across: Sequence[tuple[Picture, Sequence[Group]]]
    simulated: Sequence[SimulatedRow]
    paper: Sequence[PaperRow]
    cautions: Sequence[Caution]
    limits: Limits
    baseline: str | None


def render_page(content: PageContent) -> str:
    """HTML; the same content gives the same text."""
    import jinja2
    from markupsafe import Markup

    folder = files("bench.report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals.update(
        formats=formats,
        arm_anchor=arm_anchor,
        anchor_of=anchor_of,
        is_close=is_close,
        output_hash=lambda cell: output_sha256(cell.requests)[:16],
    )
    template = environment.from_string((folder / "page.html.jinja").read_text("utf-8"))
    of_kind = {
        kind: [view for view in content.views if view.group.kind == kind and not view.is_twin]
        for kind in (LIVE, SIM)
    }
    return template.render(
        content=content,
        css=Markup(_colour_rules() + (folder / "page.css").read_text("utf-8")),
        matrices={kind: matrices(views) for kind, views in of_kind.items()},
        all_views=[*content.views, *content.load_views],
        num_requests=_num_requests(content),
        compared=_compared(content),
    )


def _colour_rules() -> str:
    """Variables for every colour of the pictures, light and dark."""
    light = "".join(f"--c{colour[1:]}:{colour};" for colour in colours())
    dark = "".join(f"--c{colour[1:]}:{other};" for colour, other in colours().items())
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def _num_requests(content: PageContent) -> int:
    cells = [cell for source in content.sources for cell in source.run.cells]
    return sum(len(cell.requests) for cell in cells)


def _compared(content: PageContent) -> tuple[int, int]:
    """Greedy answers that were compared with another arm's, and how many differ; live ones."""
    groups = [view.group for view in content.views if view.group.kind == LIVE]
    found = [agreement for group in groups for agreement in agreements(group).values()]
    return sum(each.num_compared for each in found), sum(each.num_different for each in found)
