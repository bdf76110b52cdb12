"""What an evaluation found, as values and as text."""

from dataclasses import dataclass

from adapters.data.rounds import RoundFigures
from adapters.draft_cost import DraftCost
from adapters.measuring.threshold import ThresholdFigures


@dataclass(frozen=True, slots=True)
class RuleReport:
    """One way of choosing and accepting tokens.

    `drafted_is_known` is false for the classic rule with a stop: what would have been drafted
    after a refused token cannot be seen along the target's own text.
    """

    name: str
    full: RoundFigures
    stopped: RoundFigures
    acceptance: tuple[float, ...]
    drafted_is_known: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """An adapter on held-out text, every rule with full drafts and with the stop threshold."""

    model_name: str
    kind: str
    num_parameters: int
    num_input_layers: int
    num_output_layers: int
    num_prompts: int
    num_starts: int
    max_draft_tokens: int
    stop_threshold: float
    cost: DraftCost
    rules: tuple[RuleReport, ...]
    sweep: tuple[ThresholdFigures, ...]


def cost_words(cost: DraftCost) -> str:
    """What drafting costs, and whether that was measured or assumed."""
    row = f"a drafted row {100 * cost.row:.3g} %"
    if cost.step_ms is None or cost.round_ms is None:
        return f"assumed: a draft step takes {100 * cost.step:.3g} % of a round and {row}"
    return (
        f"measured here: a draft step takes {cost.step_ms:.3g} ms, which is "
        f"{100 * cost.step:.3g} % of a round of {cost.round_ms:g} ms; assumed: {row}"
    )


def render_report(report: Report) -> str:
    """The report as Markdown tables, for a terminal and for documents alike."""
    positions = range(1, report.max_draft_tokens + 1)
    lines = [
        f"{report.model_name}, {report.kind} adapter ({report.num_parameters:,} parameters), "
        f"{report.num_input_layers} input and {report.num_output_layers} output layers; "
        f"{report.num_prompts} prompts, {report.num_starts} draft starts per rule",
        "",
        _row("rule", "drafting", "tokens/round", "SE", "drafted", "accepted", *positions),
        _row(*["---"] * (6 + report.max_draft_tokens)),
    ]
    for rule in report.rules:
        shares = [f"{share:.3f}" for share in rule.acceptance]
        lines.append(_row(rule.name, f"{report.max_draft_tokens}", *_figures(rule.full), *shares))
        known = rule.drafted_is_known
        stop = f"stop {report.stop_threshold:g}"
        lines.append(_row(rule.name, stop, *_figures(rule.stopped, known), *[""] * len(shares)))
    lines += ["", *_sweep(report)]
    return "\n".join(lines)


def _figures(figures: RoundFigures, drafted_is_known: bool = True) -> tuple[str, str, str, str]:
    """Tokens per round, its standard error, drafted per round, accepted share."""
    drafted = f"{figures.drafted_per_round:.2f}" if drafted_is_known else "-"
    share = f"{figures.accepted_share:.2f}" if drafted_is_known else "-"
    return f"{figures.tokens_per_round:.3f}", f"{figures.standard_error:.3f}", drafted, share


def _sweep(report: Report) -> list[str]:
    lines = [
        f"Stop thresholds, greedy; {cost_words(report.cost)}:",
        "",
        _row("stop", "tokens/round", "drafted", "accepted", "tokens/trip"),
    ]
    lines.append(_row(*["---"] * 5))
    for one in report.sweep:
        tokens, _, drafted, share = _figures(one.figures)
        lines.append(
            _row(f"{one.threshold:g}", tokens, drafted, share, f"{one.tokens_per_trip:.3f}")
        )
    return lines


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
