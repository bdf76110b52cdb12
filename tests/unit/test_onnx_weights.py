"""Weights on their way into ONNX graphs: pieces, padding, blocks of integers, external data."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from submodels.bundle.bundle import load_bundle
from submodels.onnx import matrices as onnx_matrices
from submodels.onnx.files import LOGITS, ROWS, Graph, graph_file
from submodels.onnx.graphs import write_onnx
from submodels.onnx.matrices import pad_heads, padded_head_dim, padded_matrix, plain_matrix, stacked
from submodels.onnx.quantisation import BLOCK, block_scales, num_blocks, quantise
from submodels.random_models import RandomModel, make_random_model
from submodels.tensors.tensor_layout import EMBEDDING, FINAL_NORM, LM_HEAD, Part
from tests.support.split_models import split


def dequantised(rows: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """What MatMulNBits multiplies by, after its documentation."""
    packed = quantise(rows, bits)
    if bits == 4:
        packed = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(*packed.shape[:-1], BLOCK)
    centred = packed.astype(np.float32) - (1 << (bits - 1))
    weights = centred * block_scales(rows, bits)[..., None]
    return weights.reshape(len(rows), -1)[:, : rows.shape[1]]


def random_matrix(num_rows: int, num_columns: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((num_rows, num_columns), np.float32)


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 100)),
    bits=st.sampled_from([4, 8]),
    magnitude=st.sampled_from([1e-42, 1e-20, 1.0, 1e20]),
    seed=st.integers(0, 1000),
)
def test_integers_are_within_a_step_of_the_weights(
    size: tuple[int, int], bits: int, magnitude: float, seed: int
) -> None:
    rows = random_matrix(*size, seed) * np.float32(magnitude)
    steps = np.abs(block_scales(rows, bits)).repeat(BLOCK, axis=1)[:, : size[1]]
    error = np.abs(dequantised(rows, bits) - rows)
    # Half a step, but a whole one at the end of the range without its mirror image; below
    # 1e-38 the step itself is rounded.
    assert (error <= steps * 1.001 + 1e-44 * (1 << bits)).all()
    assert np.median(error) <= np.median(steps) * 0.501 + 1e-44 * (1 << bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_stays_zero_and_the_largest_weight_stays_itself(bits: int) -> None:
    rows = np.zeros((3, 70), np.float32)
    rows[1, 40] = 3.7
    rows[2, 69] = -0.2
    np.testing.assert_allclose(dequantised(rows, bits), rows, rtol=1e-6)


def test_a_row_has_a_block_for_its_remainder() -> None:
    assert [num_blocks(n) for n in (1, 31, 32, 33, 64, 172)] == [1, 1, 1, 2, 2, 6]
    assert quantise(np.ones((2, 172), np.float32), 4).shape == (2, 6, BLOCK // 2)
    assert quantise(np.ones((2, 172), np.float32), 8).shape == (2, 6, BLOCK)


def test_heads_are_widened_in_halves() -> None:
    weight = np.arange(1, 17, dtype=np.float32)
    widened = pad_heads(weight, head_dim=8)
    expected = [1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8, 0, 0, 0, 0]
    expected += [9, 10, 11, 12, 0, 0, 0, 0, 13, 14, 15, 16, 0, 0, 0, 0]
    assert widened.tolist() == expected
    assert [padded_head_dim(n) for n in (2, 8, 16, 24, 64, 80, 128)] == [
        16,
        16,
        16,
        32,
        64,
        80,
        128,
    ]


@pytest.mark.parametrize("piece_elements", [1, 50, 1 << 22])
def test_a_matrix_comes_whole_in_any_pieces(
    monkeypatch: pytest.MonkeyPatch, piece_elements: int
) -> None:
    monkeypatch.setattr(onnx_matrices, "_PIECE_ELEMENTS", piece_elements)
    first, second = random_matrix(24, 7, 0), random_matrix(5, 7, 1)
    both = stacked(padded_matrix(first, 8, axis=0), plain_matrix(second))
    pieces = np.concatenate(list(both.pieces()))
    np.testing.assert_array_equal(pieces, np.concatenate([pad_heads(first, 8), second]))
    assert pieces.shape == (both.num_rows, both.num_columns)
    columns = padded_matrix(first.T, 8, axis=1)
    turned = np.concatenate(list(columns.pieces()))
    np.testing.assert_array_equal(turned, pad_heads(first, 8).T)
    assert turned.shape == (columns.num_rows, columns.num_columns)


def test_bfloat16_widens_exactly() -> None:
    source = random_matrix(9, 5, 0).astype(ml_dtypes.bfloat16)
    (piece,) = plain_matrix(source).pieces()
    assert piece.dtype == np.float32
    np.testing.assert_array_equal(piece.astype(ml_dtypes.bfloat16), source)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_float32_graph_holds_no_matrix_and_reads_those_of_the_bundle(
    tmp_path: Path, tied: bool, dtype: str
) -> None:
    # Heads of 16 need no padding.
    make_random_model(RandomModel(tied=tied, dtype=dtype), tmp_path / "model")
    split(tmp_path / "model", tmp_path / "bundle", 2, 1, onnx_weights=("float32",))
    bundle = load_bundle(tmp_path / "bundle", "device")
    graphs = [file for file in bundle.path.iterdir() if file.name.endswith(".onnx")]
    assert len(graphs) == 3
    widths = {len(tensor.raw_data) for file in graphs for tensor in onnx.load(
        file, load_external_data=False
    ).graph.initializer}  # fmt: skip
    assert max(widths) <= 4 * bundle.manifest.shape.hidden_size
    head = onnxruntime.InferenceSession(
        bundle.path / "head.float32.onnx", providers=["CPUExecutionProvider"]
    )
    rows = random_matrix(3, bundle.manifest.shape.hidden_size, 0)
    part, name = (Part.INPUT, EMBEDDING) if tied else (Part.OUTPUT, LM_HEAD)
    norm = bundle.read_tensor(Part.OUTPUT, FINAL_NORM).astype(np.float32)
    normed = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-6) * norm
    expected = normed @ bundle.read_tensor(part, name).astype(np.float32).T
    np.testing.assert_allclose(head.run([LOGITS], {ROWS: rows})[0], expected, rtol=1e-4, atol=1e-4)


def test_widened_heads_lie_in_the_graph(tmp_path: Path) -> None:
    make_random_model(RandomModel(head_dim=24), tmp_path / "model")
    split(tmp_path / "model", tmp_path / "bundle", 1, 0, onnx_weights=("float32",))
    bundle = load_bundle(tmp_path / "bundle", "device")
    graph = onnx.load(bundle.path / "input.float32.onnx", load_external_data=False).graph
    inside = {tensor.name for tensor in graph.initializer if len(tensor.raw_data) > 1024}
    assert inside == {"0.qkv.weight", "0.self_attn.o_proj.weight"}


@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
def test_weights_beside_the_model_give_what_weights_inside_it_give(
    tmp_path: Path, weights: str
) -> None:
    make_random_model(RandomModel(tied=True), tmp_path / "model")
    device = split(tmp_path / "model", tmp_path / "bundle", 1, 1).device
    folder = tmp_path / "bundle" / "device"
    name = graph_file(Graph.HEAD, weights)
    rows = random_matrix(3, device.shape.hidden_size, 0)
    logits = []
    for limit in (1 << 30, 0):
        written = write_onnx(folder, device.shape, 1, 1, [weights], inline_limit_bytes=limit)
        assert (f"{name}.data" in written) == (limit == 0)
        assert all((folder / file).is_file() for file in written)
        session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        logits.append(session.run([LOGITS], {ROWS: rows})[0])
    np.testing.assert_array_equal(*logits)


def test_parts_without_layers_have_no_graph(tmp_path: Path) -> None:
    make_random_model(RandomModel(), tmp_path / "model")
    device = split(tmp_path / "model", tmp_path / "bundle", 0, 0).device
    folder = tmp_path / "bundle" / "device"
    written = write_onnx(folder, device.shape, 0, 0, ["float32", "int4"])
    assert written == ["head.float32.onnx", "head.int4.onnx"]


def test_unknown_weights_are_refused_by_name(tmp_path: Path) -> None:
    make_random_model(RandomModel(), tmp_path / "model")
    device = split(tmp_path / "model", tmp_path / "bundle", 0, 0).device
    folder = tmp_path / "bundle" / "device"
    with pytest.raises(ValueError, match="expected one of float32, int8, int4, got 'int3'"):
        write_onnx(folder, device.shape, 0, 0, ["int3"])
