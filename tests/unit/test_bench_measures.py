import math

import pytest

from bench import measures
from bench.records import LinkRecord
from tests.support.bench_runs import made_up_cell, made_up_request

# A first piece of 2 tokens, then pieces of 1, 3 and 2 tokens.
ANSWER = made_up_request([(0.5, 2), (0.6, 1), (0.9, 3), (1.1, 2)])


def test_time_to_first_token_is_that_of_the_first_piece() -> None:
    assert measures.ttft_s(ANSWER) == 0.5
    assert measures.ttft_s(made_up_request([], error="cloud_lost")) is None


def test_tokens_that_arrive_at_once_share_the_time_since_the_piece_before() -> None:
    expected = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert measures.tbt_s(ANSWER) == pytest.approx(expected)
    uneven = made_up_request([(1.0, 1), (1.2, 2), (1.9, 1)])
    assert measures.tbt_s(uneven) == pytest.approx([0.1, 0.1, 0.7])


def test_a_piece_without_a_token_of_its_own_counts_for_none() -> None:
    held_back = made_up_request([(1.0, 1), (1.2, 0), (1.4, 2), (1.5, 0)])
    assert measures.tbt_s(held_back) == pytest.approx([0.2, 0.2])


def test_gaps_between_pieces_do_not_look_at_tokens() -> None:
    assert measures.emission_gaps_s(ANSWER) == pytest.approx([0.1, 0.3, 0.2])
    assert measures.emission_gaps_s(made_up_request([(0.5, 9)])) == []


def test_a_percentile_lies_between_the_nearest_ranks() -> None:
    assert measures.percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert measures.percentile([7.0], 99) == 7.0
    assert measures.percentile([0.0, 10.0], 90) == pytest.approx(9.0)
    with pytest.raises(ValueError, match="at least one value"):
        measures.percentile([], 50)


def test_accept_length_counts_the_targets_own_token() -> None:
    request = made_up_request([(0.1, 1)], rounds=4, drafted=[4, 4, 2], accepted=[3, 2, 1])
    assert measures.accept_length([request]) == 1 + 6 / 4
    assert measures.accept_length([request, made_up_request([(0.1, 1)], rounds=2)]) == 1 + 6 / 6
    assert measures.accept_length([made_up_request([(0.1, 1)])]) is None
    assert measures.accept_length([]) is None


def test_acceptance_at_a_position_is_over_the_drafts_that_reached_it() -> None:
    longer = made_up_request([], rounds=4, drafted=[4, 4, 2], accepted=[3, 2, 1])
    shorter = made_up_request([], rounds=1, drafted=[1], accepted=[0])
    assert measures.acceptance_by_position([longer, shorter]) == [3 / 5, 2 / 4, 1 / 2]
    assert measures.acceptance_by_position([]) == []


def test_bytes_are_over_tokens_of_the_answer_the_prompts_included() -> None:
    request = made_up_request([(0.1, 1), (0.2, 3)], prompt_tokens=16, bytes_up=200, bytes_down=80)
    assert measures.bytes_up_per_token([request, request]) == 50
    assert measures.bytes_down_per_token([request, request]) == 20
    silent = made_up_request([], prompt_tokens=16, bytes_up=32, error="timeout")
    assert measures.bytes_up_per_token([silent]) is None
    assert measures.bytes_up_per_token([request, silent]) == 58
    assert measures.bytes_down_per_token([silent]) is None
    assert measures.bytes_up_per_token([]) is None


def test_rows_of_no_use_are_a_share_of_all_that_were_sent_behind_prompts() -> None:
    one = made_up_request([(0.5, 1)], rounds=3, drafted=[2, 1], accepted=[1, 0], stale_rows=4)
    plain = made_up_request([(0.5, 1)], rounds=2)
    assert measures.stale_share([one]) == pytest.approx(4 / 10)
    assert measures.stale_share([one, plain]) == pytest.approx(4 / 12)
    assert measures.stale_share([]) is None


def test_rows_that_clouds_ran_are_over_tokens_behind_the_first_without_the_prompts() -> None:
    cell = made_up_cell(requests=[ANSWER, ANSWER], cloud_step_tokens=[32, 10, 11])
    assert measures.cloud_rows_per_token([cell]) == pytest.approx(21 / 14)
    assert measures.cloud_rows_per_token([cell, cell]) == pytest.approx(21 / 14)
    assert measures.cloud_rows_per_token([made_up_cell()]) is None


def test_the_measured_round_trip_is_taken_before_the_asked_one() -> None:
    link = LinkRecord(kind="tap", delay_s=0.01, measured_rtt_s={"p50": 0.021, "min": 0.02})
    assert measures.rtt_s(link) == 0.021
    assert measures.rtt_s(LinkRecord(kind="simulated", delay_s=0.01)) == 0.02


def test_the_hash_of_all_answers_knows_their_numbers_not_their_order() -> None:
    first = made_up_request([(0.1, 1)], number=0, output_sha256="a")
    second = made_up_request([(0.1, 1)], number=1, output_sha256="b")
    swapped = made_up_request([(0.1, 1)], number=1, output_sha256="a")
    whole = measures.output_sha256([first, second])
    assert measures.output_sha256([second, first]) == whole
    assert measures.output_sha256([first, swapped]) != whole
    assert len(whole) == 64


def test_limits_are_met_by_the_first_piece_and_by_the_mean_between_tokens() -> None:
    quick = made_up_request([(0.3, 1), (0.35, 1), (0.5, 1)], number=0, arrival_s=0.0)
    late = made_up_request([(0.6, 1), (0.7, 1)], number=1, arrival_s=1.0)
    slow = made_up_request([(0.3, 1), (0.9, 1)], number=2, arrival_s=2.0)
    failed = made_up_request([(0.3, 1)], number=3, arrival_s=2.0, error="cloud_lost")
    silent = made_up_request([], number=4, arrival_s=2.0)
    cell = made_up_cell(requests=[quick, late, slow, failed, silent])
    assert measures.sla_attainment(cell, 0.5, 0.1) == 1 / 5
    assert measures.sla_attainment(cell, 0.6, 0.7) == 3 / 5
    # From the first arrival at 0 to the last piece at 2.9 s.
    assert measures.goodput_per_s(cell, 0.6, 0.7) == pytest.approx(3 / 2.9)


def test_an_empty_cell_meets_nothing() -> None:
    cell = made_up_cell(requests=[])
    assert measures.sla_attainment(cell, 1, 1) == 0
    assert measures.goodput_per_s(cell, 1, 1) == 0
    silent = made_up_cell(requests=[made_up_request([], error="refused")])
    assert measures.goodput_per_s(silent, 1, 1) == 0
    assert math.isclose(measures.sla_attainment(silent, math.inf, math.inf), 0)
