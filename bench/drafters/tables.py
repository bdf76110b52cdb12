"""An evaluation as Markdown: tokens per round by group, and the drafts of each drafter."""

import shlex

from bench.drafters.evaluation import ALL, TOGETHER, Evaluation, GroupFigures, Row
from bench.drafters.texts.choosing import GREEDY
from bench.report.formats import NONE

_TITLES = {GREEDY: "Greedy", "sampled": "Sampled at temperature 1"}


def tables(evaluation: Evaluation) -> str:
    """All tables, one pair for each rule, and where they come from."""
    lines: list[str] = []
    for rule in dict.fromkeys(row.rule for row in evaluation.rows):
        rows = [row for row in evaluation.rows if row.rule == rule]
        penalty = evaluation.repetition_penalty
        title = _TITLES[rule] + ("" if penalty == 1.0 else f", repetition penalty {penalty:g}")
        lines += [f"**{title}**, tokens per round ± standard error over prompts:", ""]
        lines += [*_by_group(evaluation, rows), ""]
        whole = TOGETHER if TOGETHER in evaluation.groups else evaluation.groups[-1]
        lines += [f"Drafts of {_of(whole)}, and the share right at each position", ""]
        lines[-2] += " (given that all before it were, over drafts from every place of the texts):"
        lines += [*_by_position(rows, whole), ""]
    return "\n".join([*lines, *_receipt(evaluation), ""])


def _by_group(evaluation: Evaluation, rows: list[Row]) -> list[str]:
    counts = [_num_prompts(rows, group) for group in evaluation.groups]
    names = zip(evaluation.groups, counts, strict=True)
    heads = [f"{group} ({count})" for group, count in names]
    lines = [_line("drafter", "tokens drafted", *heads), _line(*["---"] * (2 + len(heads)))]
    for row in rows:
        cells = [_per_round(row.groups.get(group)) for group in evaluation.groups]
        lines.append(_line(row.drafter, row.drafting or NONE, *cells))
    return lines


def _by_position(rows: list[Row], group: str) -> list[str]:
    most = max(len(row.groups[group].right_by_position) for row in rows if group in row.groups)
    places = [str(place) for place in range(1, most + 1)]
    heads = ("drafter", "tokens drafted", "drafted per round", "accepted", "tokens per s", *places)
    lines = [_line(*heads), _line(*["---"] * len(heads))]
    for row in rows:
        found = row.groups.get(group)
        if found is None or not row.drafting:
            continue
        shares = [_share(share) for share in found.right_by_position]
        shares += [""] * (most - len(shares))
        drafted, accepted = f"{found.drafted_per_round:.2f}", _share(found.accepted_share)
        speed = "" if found.tokens_per_s is None else f"{found.tokens_per_s:.2f}"
        lines.append(_line(row.drafter, row.drafting, drafted, accepted, speed, *shares))
    return lines


def _receipt(evaluation: Evaluation) -> list[str]:
    receipt, model = evaluation.receipt, evaluation.model
    about = (
        f"{model.name}, {model.num_input_layers} input layers, float32; answers of up to "
        f"{evaluation.max_tokens} tokens. {receipt.hardware}, {receipt.num_cores} cores, "
        f"commit {receipt.commit}. `{shlex.join(receipt.command)}`"
    )
    adapters = [
        f"- {adapter.name}: kind {adapter.kind}, {adapter.num_parameters:,} parameters, "
        + ("imported" if adapter.steps is None else f"{adapter.steps:,} training steps")
        for adapter in evaluation.adapters
    ]
    return [about, *([""] if adapters else []), *adapters]


def _num_prompts(rows: list[Row], group: str) -> int:
    return max((row.groups[group].num_prompts for row in rows if group in row.groups), default=0)


def _per_round(found: GroupFigures | None) -> str:
    if found is None:
        return NONE
    error = "" if not found.standard_error else f" ± {found.standard_error:.2f}"
    return f"{found.tokens_per_round:.2f}{error}"


def _of(group: str) -> str:
    return {TOGETHER: "chat, code and mathematics together", ALL: "all prompts"}.get(group, group)


def _share(share: float | None) -> str:
    return NONE if share is None else f"{share:.2f}"


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
