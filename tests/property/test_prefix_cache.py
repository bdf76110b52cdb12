from itertools import count

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.session.prefix_cache import Kept, PrefixCache, PrefixCacheLimits

texts = st.lists(st.integers(0, 1), min_size=1, max_size=12)


class Place:
    """Stands for a session's caches."""

    def __init__(self, number):
        self.number = number
        self.is_alive = True


def make_cache(max_sessions=3, max_tokens=1000, min_shared_tokens=1):
    limits = PrefixCacheLimits(max_sessions, max_tokens, min_shared_tokens)
    return PrefixCache(limits, lambda place: place.is_alive)


def kept(text, place, reserved_tokens=20, expires_s=10.0):
    return Kept(np.asarray(text, dtype=np.int64), reserved_tokens, place, expires_s)


def num_shared(text, prompt):
    length = 0
    while length < min(len(text), len(prompt)) and text[length] == prompt[length]:
        length += 1
    return min(length, len(prompt) - 1)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), texts, st.integers(1, 30)),
        st.tuples(st.just("find"), texts, st.integers(1, 30)),
        st.tuples(st.just("lose"), st.integers(0, 5), st.none()),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(
    steps=steps,
    max_sessions=st.integers(0, 3),
    max_tokens=st.integers(0, 60),
    min_shared=st.integers(1, 4),
)
def test_the_longest_living_prefix_is_found_within_bounds_and_no_place_is_lost(
    steps, max_sessions, max_tokens, min_shared
):
    cache, numbers = make_cache(max_sessions, max_tokens, min_shared), count()
    inside = {}
    for now, (kind, value, reserved) in enumerate(steps):
        match kind:
            case "keep":
                place = Place(next(numbers))
                inside[place] = (value, reserved)
                for dropped in cache.keep(kept(value, place, reserved, now + 7), now):
                    del inside[dropped]
            case "find":
                shared = {
                    place: num_shared(text, value)
                    for place, (text, _) in inside.items()
                    if place.is_alive and num_shared(text, value) >= min_shared
                }
                match = cache.find(value, reserved)
                assert (match is not None) == bool(shared)
                if match is not None:
                    assert match.num_shared_tokens == shared[match.place] == max(shared.values())
                    text, had = inside[match.place]
                    assert match.is_superseded == (2 * match.num_shared_tokens >= len(text))
                    assert match.is_taken == (match.is_superseded and reserved <= had)
                    if match.is_taken:
                        del inside[match.place]
            case "lose":
                for place in list(inside)[value : value + 1]:
                    place.is_alive = False
        assert len(cache) == len(inside) <= max_sessions
        assert sum(had for _, had in inside.values()) <= max_tokens
    assert set(cache.clear()) == set(inside)
    assert len(cache) == 0


def test_the_least_recently_used_session_goes_first():
    cache = make_cache(max_sessions=2)
    first, second, third = Place(1), Place(2), Place(3)
    cache.keep(kept([1, 1, 1, 1], first), 0.0)
    cache.keep(kept([2, 2, 2, 2], second), 0.0)
    assert not cache.find([1, 9], 20).is_taken
    assert cache.keep(kept([3], third), 0.0) == [second]


def test_idle_and_lost_sessions_are_given_up():
    cache = make_cache()
    idle, lost, fresh = Place(1), Place(2), Place(3)
    cache.keep(kept([1], idle, expires_s=5.0), 0.0)
    cache.keep(kept([1], lost), 0.0)
    cache.keep(kept([1], fresh), 0.0)
    lost.is_alive = False
    assert set(cache.expire(5.0)) == {idle, lost}
    assert cache.remove(fresh)
    assert not cache.remove(fresh)


def test_keeping_one_gives_up_those_that_were_idle_too_long():
    cache = make_cache()
    idle, fresh = Place(1), Place(2)
    cache.keep(kept([1], idle, expires_s=5.0), 0.0)
    assert cache.keep(kept([2], fresh), 5.0) == [idle]
    assert len(cache) == 1


def test_a_session_larger_than_all_room_is_given_up_at_once():
    cache, place = make_cache(max_tokens=10), Place(1)
    assert cache.keep(kept([1], place, reserved_tokens=11), 0.0) == [place]


def test_the_last_token_of_a_prompt_is_never_taken_from_the_cache():
    cache = make_cache()
    cache.keep(kept([1, 2, 3], Place(1)), 0.0)
    assert cache.find([1, 2, 3], 20).num_shared_tokens == 2


def test_the_half_that_was_not_used_for_longer_is_given_up():
    cache = make_cache(max_sessions=3)
    places = [Place(number) for number in range(3)]
    for number, place in enumerate(places):
        cache.keep(kept([number] * 4, place), 0.0)
    assert cache.drop_older_half() == places[:2]
    assert cache.drop_older_half() == places[2:]
    assert cache.drop_older_half() == []
