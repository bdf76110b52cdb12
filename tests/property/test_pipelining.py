"""The gate of pipelined verification, on rounds that are made up."""

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.session.pipelining import GatedPipelining, RoundOutcome, RoundTimes
from tests.support.examples import at_most

PLAIN_S = 0.15
WARM_UP_ROUNDS = 6
LATE_ROUNDS = 400


class Rounds:
    """Rounds of drafts of 4 tokens; `hit` and `miss` are shares of a plain round's time."""

    def __init__(self, acceptance, hit=0.4, miss=1.03, queue_s=0.0, times=None, seed=0):
        self.gate = GatedPipelining(times or RoundTimes())
        self.acceptance, self.hit, self.miss, self.queue_s = acceptance, hit, miss, queue_s
        self.draws = Random(seed)
        self.last = RoundOutcome(0, 0, False, 0, False, None, None)
        self.seconds = []
        self.behind = []

    def play(self, num_rounds):
        for _ in range(num_rounds):
            self.round()
        return self

    def round(self):
        num_behind = self.gate.num_behind()
        shares = {(True, True): self.hit, (True, False): self.miss}
        share = shares.get((self.last.num_behind > 0, self.last.is_hit), 1.0)
        num_accepted = 0
        while num_accepted < 4 and self.draws.random() < self.acceptance:
            num_accepted += 1
        guess = self.draws.random() < self.acceptance
        is_hit = num_accepted == 4 and guess and num_behind > 0
        interval_s = share * PLAIN_S
        self.last = RoundOutcome(
            4, num_accepted, True, num_behind, is_hit, interval_s, self.queue_s
        )
        self.gate.on_round(self.last)
        self.seconds.append(interval_s)
        self.behind.append(num_behind)


def test_nothing_is_sent_on_before_rounds_have_a_known_time():
    rounds = Rounds(acceptance=1.0).play(WARM_UP_ROUNDS + 2)
    assert rounds.behind[:WARM_UP_ROUNDS] == [0] * WARM_UP_ROUNDS
    assert rounds.behind[WARM_UP_ROUNDS] >= 1


def test_what_one_answer_has_measured_serves_the_next():
    times = RoundTimes()
    Rounds(acceptance=1.0, times=times).play(WARM_UP_ROUNDS)
    assert Rounds(acceptance=1.0, times=times).play(4).behind[1] >= 1


@given(acceptance=st.floats(0.85, 1.0), hit=st.floats(0.05, 0.7), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=at_most(60))
def test_where_drafts_survive_and_the_way_is_long_rounds_are_sent_on(acceptance, hit, seed):
    rounds = Rounds(acceptance, hit, seed=seed).play(LATE_ROUNDS)
    late = rounds.seconds[100:]
    survival = acceptance**5
    best = survival * hit + (1 - survival) * 1.03
    assert sum(rounds.behind[100:]) > 0.5 * len(late)
    assert sum(late) / len(late) < PLAIN_S * (best + 0.4 * (1 - best))


@given(acceptance=st.floats(0.0, 0.5), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=at_most(60))
def test_where_drafts_fail_it_costs_less_than_two_percent_after_the_warm_up(acceptance, seed):
    rounds = Rounds(acceptance, miss=1.3, seed=seed).play(LATE_ROUNDS)
    late = rounds.seconds[WARM_UP_ROUNDS:]
    assert sum(late) <= 1.02 * PLAIN_S * len(late)


@given(
    acceptance=st.floats(0.6, 0.95),
    hit=st.floats(0.9, 1.5),
    miss=st.floats(1.0, 3.0),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=at_most(60))
def test_where_rows_are_dear_it_ends_and_probes_stay_rare(acceptance, hit, miss, seed):
    """A thin uplink: what is sent on delays what is sent next. The first rounds show it."""
    rounds = Rounds(acceptance, hit, miss, seed=seed).play(40 + 3 * LATE_ROUNDS)
    late = rounds.seconds[40:]
    assert sum(late) <= 1.02 * PLAIN_S * len(late)


def test_probes_find_a_link_that_has_become_long():
    rounds = Rounds(0.95, hit=1.2, miss=1.5).play(200)
    assert sum(rounds.behind[100:]) <= 3
    rounds.hit, rounds.miss = 0.3, 1.02
    rounds.play(3000)
    assert sum(1 for num_behind in rounds.behind[-200:] if num_behind) > 150


def test_the_deeper_rounds_are_sent_only_where_they_are_likely_to_survive():
    sure = Rounds(0.99).play(LATE_ROUNDS)
    likely = Rounds(0.82).play(LATE_ROUNDS)
    assert max(sure.behind) == 3
    assert sum(likely.behind[100:]) < 2 * len(likely.behind[100:])


def test_while_others_wait_for_the_cloud_only_what_is_likely_is_sent():
    quiet, busy = (Rounds(0.86, queue_s=queue_s).play(LATE_ROUNDS) for queue_s in (0.0, 0.03))
    assert sum(quiet.behind[100:]) > 200
    assert sum(busy.behind[100:]) < 60


def test_rounds_whose_time_is_not_known_teach_nothing_of_time():
    gate = GatedPipelining(times := RoundTimes())
    for _ in range(50):
        gate.on_round(RoundOutcome(4, 4, True, 0, False, None, None))
    assert gate.num_behind() == 0
    gate.on_round(replace(RoundOutcome(4, 4, True, 0, False, PLAIN_S, 0.0)))
    assert times.plain_s.value == PLAIN_S
