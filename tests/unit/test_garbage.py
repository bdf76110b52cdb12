"""Garbage collection leaves out what a program has loaded, and nothing that comes later."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from process.program.garbage import leave_out_what_is_loaded


class _Ring:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def _nothing_stays_left_out() -> Iterator[None]:
    yield
    gc.unfreeze()


def _is_looked_through(ring: _Ring) -> bool:
    return any(each is ring for each in gc.get_objects())


def test_what_is_loaded_is_looked_through_no_more() -> None:
    loaded, garbage = _Ring(), weakref.ref(_Ring())
    leave_out_what_is_loaded()
    assert garbage() is None, "what was garbage then is freed before"
    later = _Ring()
    assert not _is_looked_through(loaded)
    assert _is_looked_through(later)
    gone = weakref.ref(later)
    del later
    gc.collect()
    assert gone() is None


def test_what_an_earlier_call_left_out_is_freed_at_the_next_one() -> None:
    bundle = _Ring()
    gone = weakref.ref(bundle)
    leave_out_what_is_loaded()
    del bundle
    gc.collect()
    assert gone() is not None
    leave_out_what_is_loaded()
    assert gone() is None
