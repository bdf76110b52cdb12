"""A device's drafter asked without a device: nothing has to be waited for."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from device_runtime.engines.engine import DeviceEngine, Rows, SequenceId, Workers

T = TypeVar("T")


class _AtOnce:
    """Workers without an engine, for calls that need none."""

    async def run(self, call: Callable[[DeviceEngine], T]) -> T:
        return call(cast(DeviceEngine, None))


NO_ROWS = cast(Rows, None)
AT_ONCE = cast(Workers, _AtOnce())
SEQUENCE = SequenceId(0)
"""What an engine would be asked with; nobody asks one here."""


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("expected a drafter that waits for nothing")
