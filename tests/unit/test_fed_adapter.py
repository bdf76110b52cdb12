"""What a fed adapter keeps of a sequence, over a cache that only counts."""

import numpy as np

from device_runtime.engines.draft_model import MAX_WAITING_ROWS
from device_runtime.engines.engine import Rows
from device_runtime.engines.fed_adapter import MAX_SEEN_ROWS, FedAdapter

H = 2


class Recorder:
    """A `StackCache` whose estimates are a position's number, and that keeps what it was fed."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.fed: list[tuple[int, Rows]] = []

    def run(self, rows: Rows, position: int) -> Rows:
        assert position <= self.num_tokens
        self.fed.append((position, rows.copy()))
        self.num_tokens = position + len(rows)
        numbers = np.arange(position, self.num_tokens, dtype=np.float32)
        return np.repeat(100 + numbers[:, None], H, axis=1)

    def fork(self, num_tokens: int) -> "Recorder":
        copy = Recorder()
        copy.num_tokens = num_tokens
        return copy

    def features(self) -> list[float | None]:
        """What each row of the last run was fed with, by its first number."""
        _, rows = self.fed[-1]
        return [float(row[H]) if row[-1] else None for row in rows]


def rows_of(*numbers: float) -> Rows:
    return np.repeat(np.array(numbers, np.float32)[:, None], H, axis=1)


def with_prompt(num_tokens: int, *, comes_whole: bool = False) -> tuple[FedAdapter, Recorder]:
    cache = Recorder()
    adapter = FedAdapter(cache, comes_whole)
    adapter.add(rows_of(*range(num_tokens)))
    return adapter, cache


def drafted(adapter: FedAdapter, position: int) -> Rows:
    rows = rows_of(position)
    adapter.truncate(position)
    adapter.add(rows)
    return adapter.estimate(rows, position)


def test_a_prompt_is_run_without_features_and_a_chain_with_its_own_estimates() -> None:
    adapter, cache = with_prompt(4)
    adapter.learn(rows_of(53.0), 3)
    drafted(adapter, 4)
    assert [start for start, _ in cache.fed] == [0]
    assert cache.features() == [None, None, None, None, 53.0]
    drafted(adapter, 5)
    assert (cache.fed[-1][0], cache.features()) == (5, [104.0])
    # The reply: what was drafted is run once more, all of it at once.
    adapter.learn(rows_of(54.0, 55.0), 4)
    drafted(adapter, 6)
    assert (cache.fed[-1][0], cache.features()) == (5, [54.0, 55.0])


def test_what_is_known_already_is_not_run_again() -> None:
    adapter, cache = with_prompt(2)
    first, again = drafted(adapter, 2), None
    num_runs = len(cache.fed)
    again = adapter.estimate(rows_of(2), 2)
    assert len(cache.fed) == num_runs
    np.testing.assert_array_equal(again, first)


def test_preparing_leaves_alone_what_a_reply_will_change() -> None:
    adapter, cache = with_prompt(5)
    assert adapter.prepare(3)
    assert not adapter.prepare(3)
    assert cache.num_tokens == 5
    drafted(adapter, 5)
    adapter.add(rows_of(6))
    assert not adapter.prepare(3)
    assert cache.num_tokens == 6
    adapter.learn(rows_of(55.0), 5)
    assert not adapter.prepare(3)
    assert cache.num_tokens == 7


def test_where_every_deep_row_comes_a_prompt_waits_for_them() -> None:
    adapter, cache = with_prompt(4, comes_whole=True)
    assert not adapter.prepare(9)
    assert cache.num_tokens == 1
    adapter.learn(rows_of(50.0, 51.0), 0)
    assert not adapter.prepare(9)
    assert (cache.num_tokens, cache.features()) == (3, [50.0, 51.0])


def test_a_fork_learns_for_itself() -> None:
    adapter, cache = with_prompt(4)
    drafted(adapter, 4)
    fork = adapter.fork(5)
    fork.learn(rows_of(70.0), 3)
    drafted(adapter, 5)
    assert cache.features() == [104.0]
    adapter.truncate(4)
    drafted(adapter, 4)
    assert cache.features() == [None]


def test_rows_of_long_texts_do_not_pile_up() -> None:
    adapter, cache = with_prompt(1)
    for start in range(1, 5000, 50):
        adapter.add(rows_of(*range(start, start + 50)))
        adapter.learn(rows_of(*range(start, start + 50)), start)
        assert adapter.num_waiting <= MAX_WAITING_ROWS
        assert len(adapter._window) <= MAX_WAITING_ROWS + 51
    while adapter.prepare(100):
        pass
    adapter.add(rows_of(adapter.num_tokens))
    assert cache.num_tokens == adapter.num_tokens - 1
    assert len(adapter._window) == MAX_SEEN_ROWS + 1


def test_a_row_that_comes_long_after_its_position_changes_nothing() -> None:
    adapter, cache = with_prompt(1000)
    while adapter.prepare(100):
        pass
    adapter.add(rows_of(1000.0))
    num_tokens = cache.num_tokens
    adapter.learn(rows_of(*range(300)), 0)
    assert cache.num_tokens == num_tokens
    fork = adapter.fork(300)
    assert (fork.num_tokens, fork.num_waiting) == (300, 0)
    fork.add(rows_of(300.0))
    assert (fork.num_tokens, fork.num_waiting) == (301, 1)


def test_rows_of_positions_that_are_not_there_are_ignored() -> None:
    adapter, _ = with_prompt(3)
    adapter.learn(rows_of(1, 2, 3, 4, 5), 1)
    adapter.learn(rows_of(9), 30)
    assert adapter.num_tokens == 3
