"""docs/chunking.md says what the code computes."""

import pytest

from chunking.bounded_planner import BoundedPlanner
from chunking.paper_planner import PaperPlanner
from tests.support.chunking_table import DOCUMENT, with_fresh_table


def test_the_table_of_predicted_times_is_the_cost_models():
    text = DOCUMENT.read_text()
    assert with_fresh_table(text) == text, "run python -m tests.support.chunking_table"


@pytest.mark.parametrize(
    "said",
    [
        f"within {100 * BoundedPlanner().slack:g} % of the bound",
        f"at most {BoundedPlanner().max_chunk_tokens} tokens",
        f"at most {BoundedPlanner().max_chunk_s:g} s of uplink",
        "chunks of {}, {} and {} tokens go up".format(*BoundedPlanner().first_tokens),
        f"one of at most {BoundedPlanner().whole_tokens} tokens goes up whole",
        f"the paper's rule sends chunks of {PaperPlanner().first_tokens} tokens",
        f"({PaperPlanner().min_tokens}, {PaperPlanner().min_tokens + PaperPlanner().grid_tokens}, ",
    ],
)
def test_the_numbers_in_its_text_are_the_planners(said):
    assert said in " ".join(DOCUMENT.read_text().split())
