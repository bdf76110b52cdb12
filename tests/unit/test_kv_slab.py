"""A slab grows by moving, keeps what is valid, and never exceeds what was reserved for it."""

import pytest
import torch

from cloud_server.engines.torch.kv_slab import KvShape, KvSlab, LayerKv, slab_tokens

MIXED = (LayerKv(3, 4), LayerKv(1, 8), LayerKv(3, 4))


def _shape(transposed: bool, *layers: LayerKv) -> KvShape:
    return KvShape(
        layers=layers or (LayerKv(3, 4),) * 2,
        dtype=torch.float32,
        device=torch.device("cpu"),
        transposed=transposed,
    )


def _fill(slab: KvSlab, rows: torch.Tensor, position: int) -> None:
    slab.reserve(position + len(rows))
    for layer in range(2):
        slab.write(layer, position, rows + layer, -rows - layer)
    slab.length = position + len(rows)


def _assert_holds(slab: KvSlab, rows: torch.Tensor) -> None:
    for layer in range(2):
        keys, values = slab.write(layer, slab.length, rows[:0], rows[:0])
        torch.testing.assert_close(keys[:, :, : len(rows)].permute(2, 0, 1), rows + layer)
        torch.testing.assert_close(values[:, : len(rows)].transpose(0, 1), -rows - layer)


@pytest.mark.parametrize("transposed", [True, False])
def test_growing_keeps_every_position(transposed):
    rows = torch.randn(1100, 3, 4)
    slab = KvSlab(_shape(transposed), max_tokens=1100)
    for position in range(0, 1100, 50):
        _fill(slab, rows[position : position + 50], position)
    _assert_holds(slab, rows)


@pytest.mark.parametrize("transposed", [True, False])
def test_a_copied_prefix_is_independent_of_its_source(transposed):
    rows = torch.randn(600, 3, 4)
    source, copy = (KvSlab(_shape(transposed), max_tokens=700) for _ in range(2))
    _fill(source, rows, 0)
    copy.copy_prefix(source, 500)
    _fill(source, torch.zeros(600, 3, 4), 0)
    assert copy.length == 500
    _assert_holds(copy, rows[:500])


@pytest.mark.parametrize("transposed", [True, False])
def test_layers_with_other_heads_are_kept_moved_saved_and_put_back(transposed):
    """Numbers tell which layer and position they are of."""
    slab = KvSlab(_shape(transposed, *MIXED), max_tokens=700)
    rows = [torch.randn(600, kv.num_kv_heads, kv.head_dim) for kv in MIXED]

    def written(position: int, end: int) -> None:
        slab.reserve(end)
        for layer, own in enumerate(rows):
            slab.write(layer, position, own[position:end], -own[position:end])
        slab.length = end

    def held(by: KvSlab, num_tokens: int) -> None:
        for layer, own in enumerate(rows):
            keys, values = by.write(layer, num_tokens, own[:0], own[:0])
            torch.testing.assert_close(keys[..., :num_tokens].permute(2, 0, 1), own[:num_tokens])
            torch.testing.assert_close(values[:, :num_tokens].transpose(0, 1), -own[:num_tokens])

    written(0, 200)
    written(200, 600)
    held(slab, 600)
    copy, restored = (KvSlab(_shape(transposed, *MIXED), max_tokens=700) for _ in range(2))
    copy.copy_prefix(slab, 500)
    held(copy, 500)
    saved = slab.saved(0, 600)
    restored.put_back(saved, 0, 300)
    restored.put_back(saved, 300, 600)
    held(restored, 600)


@pytest.mark.parametrize(
    ("num_tokens", "max_tokens", "expected"),
    [(0, 4096, 256), (256, 4096, 256), (257, 4096, 1024), (1025, 1500, 1500), (3, 40, 40)],
)
def test_slabs_grow_in_steps_up_to_the_reservation(num_tokens, max_tokens, expected):
    assert slab_tokens(num_tokens, max_tokens) == expected


def test_a_position_costs_its_keys_and_values_in_all_layers():
    assert _shape(transposed=True).bytes_per_token == 2 * 2 * 3 * 4 * 4
    assert _shape(True, *MIXED).bytes_per_token == 2 * (12 + 8 + 12) * 4
