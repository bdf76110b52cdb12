"""The measurement behind the number format: bounded in time, fair in turns, scaled to the model."""

import itertools
from collections.abc import Callable

import msgspec
import pytest

from cloud_server.engines.torch import probe as torch_probe
from cloud_server.engines.torch.probe import measure_formats, measured_format, num_weights
from cloud_server.number_format import FormatTimes, Room
from submodels.manifest import ModelShape
from tests.support.middle_models import make_middle_model
from wire.messages import Dtype

BOTH = (Dtype.BF16, Dtype.FP32)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return make_middle_model("llama").shape


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that goes on by `step_s` each time it is read."""
    readings = itertools.count()
    return lambda: next(readings) * step_s


def test_every_product_takes_a_tick_and_a_model_of_twice_the_layers_twice_the_time(
    shape: ModelShape,
) -> None:
    one = measure_formats(shape, range(4), BOTH, ticking(2.0**-10))
    two = measure_formats(shape, range(8), BOTH, ticking(2.0**-10))
    assert one[Dtype.BF16] == one[Dtype.FP32]
    assert two[Dtype.FP32].prompt_s == pytest.approx(2 * one[Dtype.FP32].prompt_s)


def test_a_clock_that_runs_away_ends_the_measurement_after_two_passes(shape: ModelShape) -> None:
    readings: list[int] = []
    clock = ticking(10.0)

    def counted() -> float:
        readings.append(1)
        return clock()

    measure_formats(shape, range(4), BOTH, counted)
    # Two passes of four products in two formats, two readings each, and one around each pass.
    assert len(readings) == 2 * 4 * 2 * 2 + 2


def test_what_does_not_fit_is_not_even_measured(
    shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_probe, "measure_formats", lambda *_: pytest.fail("measured"))
    choice = measured_format(shape, range(4), Dtype.BF16, Room(2, 1), ticking(1.0))
    assert choice.dtype is Dtype.BF16


def test_the_measured_times_decide(shape: ModelShape, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = FormatTimes(9.0, 1.0), FormatTimes(1.0, 0.1)
    for own, wide, expected in ((slow, fast, Dtype.FP32), (fast, slow, Dtype.FP16)):
        times = {Dtype.FP16: own, Dtype.FP32: wide}
        monkeypatch.setattr(torch_probe, "measure_formats", lambda *_, times=times: times)
        choice = measured_format(shape, range(4), Dtype.FP16, Room(1, 1), ticking(1.0))
        assert choice.dtype is expected


def test_weights_are_counted_over_all_layers(shape: ModelShape) -> None:
    assert num_weights(shape, range(1, 4)) == 3 * num_weights(shape, range(1))
    wider = msgspec.structs.replace(shape, intermediate_size=2 * shape.intermediate_size)
    more = 3 * shape.intermediate_size * shape.hidden_size
    assert num_weights(wider, range(1)) - num_weights(shape, range(1)) == more
