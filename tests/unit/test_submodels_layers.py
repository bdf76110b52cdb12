"""The reference layers' caches, and what bfloat16 costs."""

from pathlib import Path

import pytest
import torch

from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed
from submodels.bundle.layers import LayerCache, load_layers, run_layers, visible_keys
from submodels.random_models import RandomModel, make_random_model
from submodels.tensors.tensor_layout import Part
from tests.support.split_models import split


def _rows(num_rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_rows, 2, 4, generator=torch.Generator().manual_seed(seed))


def test_writing_below_the_length_forgets_what_was_there() -> None:
    cache, first, second = LayerCache(), _rows(100), _rows(5, seed=1)
    cache.write(0, first, first)
    keys, values = cache.write(60, second, -second)
    assert cache.length == 65
    assert torch.equal(keys, torch.cat((first[:60], second)))
    assert torch.equal(values, torch.cat((first[:60], -second)))


def test_growing_keeps_what_was_written() -> None:
    cache, rows = LayerCache(), _rows(700)
    for position in range(0, 700, 7):
        keys, _ = cache.write(
            position, rows[position : position + 7], rows[position : position + 7]
        )
    assert torch.equal(keys, rows)


@pytest.mark.parametrize("position", [-1, 4])
def test_writing_beyond_the_length_is_refused(position: int) -> None:
    cache = LayerCache()
    cache.write(0, _rows(3), _rows(3))
    with pytest.raises(ValueError, match=r"expected a position in \[0, 3\]"):
        cache.write(position, _rows(1), _rows(1))


def test_a_fork_shares_the_beginning_and_nothing_after_it() -> None:
    cache, rows, others = LayerCache(), _rows(10), _rows(3, seed=1)
    cache.write(0, rows, rows)
    fork = cache.fork(6)
    fork.write(6, others, others)
    keys, _ = cache.write(10, others[:1], others[:1])
    assert torch.equal(keys[:10], rows)
    assert torch.equal(fork.write(9, others[:0], others[:0])[0][6:], others)
    with pytest.raises(ValueError, match="expected 0 to 11 tokens"):
        cache.fork(12)


def test_a_window_counts_the_query_itself() -> None:
    visible = visible_keys(torch.tensor([3, 4]), 5, window=2)
    assert visible.tolist() == [
        [False, False, True, True, False],
        [False, False, False, True, True],
    ]


def test_bfloat16_layers_stay_close_to_float32_ones(tmp_path: Path) -> None:
    make_random_model(RandomModel("qwen3", dtype="bfloat16"), tmp_path / "model")
    split(tmp_path / "model", tmp_path / "out", 1)
    cloud = load_bundle(tmp_path / "out", "cloud")
    rows = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    outputs = []
    for dtype in (torch.float32, torch.bfloat16):
        layers = load_layers(cloud, Part.MIDDLE, Placed(dtype))
        caches = [LayerCache() for _ in layers]
        outputs.append(run_layers(layers, rows.to(dtype), 0, caches))
    assert outputs[1].dtype == torch.bfloat16
    error = (outputs[0] - outputs[1].float()).norm() / outputs[0].norm()
    assert error < 0.02
