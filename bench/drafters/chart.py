"""Tokens per round by group of prompts, drafter beside drafter, as a picture."""

from typing import TYPE_CHECKING, Any

from bench.drafters.evaluation import DEFAULT, Evaluation, Row
from bench.report.drawing import Picture, legend_below, picture
from bench.report.formats import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_IN_CLUSTERS = 8
_TITLES = {"greedy": "Greedy", "sampled": "Sampled at temperature 1"}


def drafters_chart(evaluation: Evaluation) -> Picture:
    """A panel for each rule, a cluster of bars for each group; of every drafter the way to end
    drafts that brings most over all. Of many drafters a list, all groups together.

    Whiskers are standard errors over prompts.
    """
    whole = evaluation.groups[-1]
    rules = list(dict.fromkeys(row.rule for row in evaluation.rows))
    title = f"Tokens per round of {evaluation.model.name}"
    most = max(len(_best(evaluation, rule)) for rule in rules)
    is_list = most > _MOST_IN_CLUSTERS

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(len(rules), 1, squeeze=False)[:, 0]
        for axes, rule in zip(panels, rules, strict=True):
            if is_list:
                _list(axes, whole, _best(evaluation, rule))
            else:
                _bars(axes, evaluation.groups, _best(evaluation, rule))
            axes.set_title(f"{_TITLES[rule]} (1 is no drafting)")
        figure.suptitle(title, fontsize="medium")
        if not is_list:
            legend_below(figure)

    words = "; ".join(
        f"{_TITLES[rule]}: "
        + ", ".join(
            f"{row.drafter} {number(row.groups[whole].tokens_per_round)}"
            for row in _best(evaluation, rule)
        )
        for rule in rules
    )
    height = 0.6 + 0.22 * most if is_list else 2.3
    return picture("drafters", title, f"{title}. {words}.", 0.9 + height * len(rules), draw)


def _best(evaluation: Evaluation, rule: str) -> list[Row]:
    """Each drafter's best row over all, those without any round or any draft left out."""
    whole, best = evaluation.groups[-1], dict[str, Row]()
    for row in evaluation.rows:
        if row.rule != rule or not row.drafting or whole not in row.groups:
            continue
        known = best.get(row.drafter)
        per_round = row.groups[whole].tokens_per_round
        if known is None or per_round > known.groups[whole].tokens_per_round:
            best[row.drafter] = row
    return list(best.values())


def _name(row: Row) -> str:
    is_policy = row.drafter.startswith(DEFAULT)
    return row.drafter if is_policy else f"{row.drafter}, {row.drafting} tokens"


def _bars(axes: "Axes", groups: list[str], rows: list[Row]) -> None:
    width = 0.84 / max(1, len(rows))
    for place, row in enumerate(rows):
        for at, group in enumerate(groups):
            found = row.groups.get(group)
            if found is None:
                continue
            x = at + (place - (len(rows) - 1) / 2) * width
            # Names that begin so are left out of the legend.
            name = _name(row) if at == 0 else "_again"
            look: dict[str, Any] = {"color": f"C{place % 10}", "label": name}
            error = found.standard_error or 0.0
            bar = axes.bar(x, found.tokens_per_round, 0.92 * width, yerr=error, **look)
            axes.bar_label(bar, [number(found.tokens_per_round)], padding=2, fontsize=7)
    axes.axhline(1.0, color="tab:grey", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.14)


def _list(axes: "Axes", group: str, rows: list[Row]) -> None:
    names = [_name(row) for row in rows]
    found = [row.groups[group] for row in rows]
    bars = axes.barh(
        names,
        [one.tokens_per_round for one in found],
        xerr=[one.standard_error or 0.0 for one in found],
        color=["C1" if row.drafter.startswith(DEFAULT) else "C0" for row in rows],
    )
    labels = [number(one.tokens_per_round) for one in found]
    axes.bar_label(bars, labels, padding=2, fontsize=7)
    axes.axvline(1.0, color="tab:grey", linewidth=0.8)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.1)
