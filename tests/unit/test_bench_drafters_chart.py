"""The picture of an evaluation of drafters."""

import re

import pytest

from bench.drafters.chart import drafters_chart
from bench.drafters.evaluation import Evaluation, GroupFigures, Row
from tests.support.bench_runs import MODEL, made_up_receipt

GROUPS = ["chat", "code", "these two"]


def row(drafter: str, tokens_per_round: float) -> Row:
    figures = {
        group: GroupFigures(
            num_prompts=10,
            num_rounds=100,
            tokens_per_round=tokens_per_round + place / 100,
            standard_error=0.05,
            drafted_per_round=3.0,
            accepted_share=0.2,
            right_by_position=[0.4, 0.5],
        )
        for place, group in enumerate(GROUPS)
    }
    return Row(rule="greedy", drafter=drafter, drafting="6", groups=figures)


@pytest.mark.parametrize(("num_drafters", "num_bars"), [(2, 6), (8, 24), (9, 9)])
def test_many_drafters_are_a_list_and_few_stand_by_group(num_drafters: int, num_bars: int) -> None:
    rows = [row(f"drafter {number}", 1.01 + number / 10) for number in range(num_drafters)]
    evaluation = Evaluation(
        receipt=made_up_receipt(),
        model=MODEL,
        max_tokens=100,
        groups=GROUPS,
        adapters=[],
        rows=[*rows, row("drafter 0", 0.5)],
    )
    drawn = drafters_chart(evaluation)
    labels = [f"{1.01 + number / 10 + 0.02:.2f}" for number in range(num_drafters)]
    assert all(f"drafter {number} {label}" in drawn.caption for number, label in enumerate(labels))
    said = re.findall(r"<text[^>]*>([^<]*)", drawn.svg)
    assert (
        sum(
            said.count(f"{1.01 + n / 10 + place / 100:.2f}")
            for n in range(num_drafters)
            for place in range(3)
        )
        == num_bars
    )
