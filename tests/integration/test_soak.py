"""The soak of `python -m bench.soak`, shrunk to some seconds: each kind of fault once."""

import pytest

from bench.soak.__main__ import report
from bench.soak.faults import QUICK
from bench.soak.running import Plan, soak
from tests.support.reference import STORIES
from tests.support.stack import split_for_serving

OTHERS = ("cut", "hole", "stop cloud", "hostile: open and close")


@pytest.mark.slow
async def test_every_text_is_right_and_nothing_is_left_after_faults_of_each_kind(tmp_path) -> None:
    split_for_serving(STORIES, tmp_path, 1)
    plan = Plan(
        tmp_path,
        seconds=0.0,
        num_clients=2,
        max_tokens=40,
        pace=QUICK,
        kills=("kill cloud", "kill device"),
        others=OTHERS,
        is_short=True,
    )
    outcome = await soak(plan)
    assert outcome.wrong == [], "\n".join(report(outcome))
    assert outcome.tally.num_right > 0
    assert set(outcome.num_done) == {"kill cloud", "kill device", *OTHERS}
