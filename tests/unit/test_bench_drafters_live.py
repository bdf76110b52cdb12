"""What is measured over links, in which order, and its tables; without processes."""

import math
from pathlib import Path

import msgspec
import pytest

from bench.drafters.live import USUAL, Outing, Ratio, compared, settings_of
from bench.drafters.live_command import command_of
from bench.drafters.live_tables import live_tables
from bench.link.spec import LinkSpec
from bench.records import Cell
from tests.support.bench_runs import LINK, WORKLOAD, made_up_cell, made_up_request
from tests.support.reference import STORIES
from tests.support.stack import split_for_serving

BAD = msgspec.structs.replace(WORKLOAD, name="adversarial")
FAR = msgspec.structs.replace(LINK, delay_s=0.075)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("stories") / "split", 1)


def test_time_per_token_is_compared_answer_by_answer() -> None:
    slow = [made_up_request([(1.0, 1), (3.0, 2)], number=n) for n in range(2)]
    fast = [made_up_request([(5.0, 1), (6.0, 2)], number=0)]
    fast.append(made_up_request([(0.5, 3)], number=1))
    cells = [made_up_cell(arm="u-shape", requests=slow), made_up_cell(arm="hat", requests=fast)]
    assert compared(cells, "hat", "u-shape") == Ratio(pytest.approx(0.5), None)
    assert compared(cells, "hat-ngram", "u-shape") is None
    fast[1] = made_up_request([(0.5, 1), (4.5, 2)], number=1)
    both = compared(cells, "hat", "u-shape")
    assert both == Ratio(pytest.approx(1.0), pytest.approx(math.log(2)))
    fast[1] = made_up_request([(0.5, 1), (4.5, 2)], number=1, error="unavailable")
    assert compared(cells, "hat", "u-shape") == Ratio(pytest.approx(0.5), None)


def drafting(arm: str, **changed: object) -> Cell:
    """Two tokens in one round with a row of no use; the prompt has 16."""
    answer = made_up_request([(0.3, 1), (0.4, 2)], rounds=1, drafted=[1], accepted=[1])
    answer = msgspec.structs.replace(answer, stale_rows=2)
    return made_up_cell(arm=arm, requests=[answer], cloud_step_tokens=[16, 4], **changed)


def test_questions_have_a_row_for_each_arm_and_link_the_shortest_link_first() -> None:
    cells = [made_up_cell(link=FAR, arm=arm) for arm in ("u-shape", "hat")]
    cells += [made_up_cell(arm="u-shape"), drafting("hat-no-ahead"), drafting("hat")]
    text = live_tables(cells)
    row = "| 40 ms | `hat` | 50.0 | 1.000 | 20.0 | 2.00 | 50% | 2.00 | 300 |"
    assert row in text
    assert text.index(row) < text.index("| 150 ms | `u-shape` |")
    assert "| 40 ms | 1.000 |\n| 150 ms | - |\n" in text
    assert "adversarial" not in text
    assert "repetition penalty" not in text


def test_adversarial_text_has_a_row_for_each_kind_and_all_of_them() -> None:
    answers = [
        made_up_request([(0.3, 1), (0.5, 2)], number=n, category=kind)
        for n, kind in enumerate(("base64", "random words"))
    ]
    slower = [msgspec.structs.replace(one, emissions=[(0.3, 1), (0.7, 2)]) for one in answers]
    cells = [made_up_cell(arm="u-shape", workload=BAD, requests=answers)]
    cells += [made_up_cell(arm="hat", workload=BAD, requests=[answers[0], slower[1]])]
    text = live_tables(cells)
    assert "| 40 ms | base64 | 1 | 100.0 | 1.000 |" in text
    assert "| 40 ms | random words | 1 | 100.0 | 2.000 |" in text
    assert f"| 40 ms | all | 2 | 100.0 | {math.sqrt(2):.3f} ± 0.490 |" in text


def test_greedy_text_with_the_models_penalty_is_a_table_of_its_own() -> None:
    penalised = msgspec.structs.replace(WORKLOAD, repetition_penalty=1.1)
    cells = [made_up_cell(arm=arm, workload=penalised) for arm in ("u-shape", "hat")]
    text = live_tables(cells)
    assert "repetition penalty of 1.1**" in text
    assert "no penalties" not in text
    assert "| 40 ms | `hat` | 50.0 | 1.000 |" in text


def test_the_last_link_is_measured_last_and_all_arms_of_a_setting_take_turns(
    bundles: Path, tmp_path: Path
) -> None:
    links = (LinkSpec(delay_s=0.02), LinkSpec(delay_s=0.005))
    found = list(settings_of(Outing(bundles, tmp_path, links)))
    assert [[arm.name for arm in setting.arms] for setting in found[:3]] == [
        ["u-shape", "hat-ngram", "hat", "hat-no-ahead", "hat-ahead", "hat-as-paper"],
        ["u-shape", "hat"],
        ["u-shape", "hat-ngram", "hat"],
    ]
    assert all(setting.takes_turns for setting in found)
    assert [setting.link for setting in found] == [links[0]] * 3 + [links[1]] * 3
    assert [setting.workload.temperature for setting in found[:3]] == [0.0, 1.0, 0.0]
    assert [setting.workload.repetition_penalty for setting in found[:3]] == [1.0, 1.0, 1.1]
    assert [list(setting.device_bundles) for setting in found[:3]] == [["hat-as-paper"], [], []]


def test_before_adversarial_text_counts_more_is_decided_than_the_warm_up_that_is_promised(
    bundles: Path,
) -> None:
    [_, adversarial, _] = settings_of(Outing(bundles, None, (LinkSpec(),)))
    assert adversarial.warm_up_tokens is not None
    assert adversarial.num_warm_up * (adversarial.warm_up_tokens - 1) > 500


def test_a_page_names_no_folder_of_the_machine() -> None:
    shown = command_of(["live", "/home/me/split", "--adapter", "models/mine", "--link", "rtt=4ms"])
    expected = ["live", "split", "--adapter", "models/mine", "--link", "rtt=4ms"]
    assert shown == ["python", "-m", "bench.drafters", *expected]


def test_without_the_papers_adapter_its_arm_is_left_out(bundles: Path) -> None:
    [usual] = settings_of(Outing(bundles, None, (LinkSpec(),), parts=(USUAL,)))
    assert "hat-as-paper" not in [arm.name for arm in usual.arms]
