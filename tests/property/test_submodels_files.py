"""Files of tensors: what is written is read, and damage is refused, never misread."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from submodels.bundle.bundle import load_bundle
from submodels.bundle.fingerprint import fingerprint_of
from submodels.errors import BundleError
from submodels.manifest import ModelShape, Rope, WrittenTensor
from submodels.tensors.safetensors_writer import SafetensorsWriter, TensorToWrite
from submodels.tensors.tensor_file import NUMPY_DTYPES, TensorFile, TensorFileError
from submodels.tensors.tensor_layout import Part, placements
from tests.support.examples import at_most
from tests.support.split_models import split

# One temporary folder per test is enough: examples overwrite their own file.
_SHARED_FOLDER = settings(
    max_examples=at_most(60),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)

shapes = st.builds(
    ModelShape,
    model_type=st.just("qwen3"),
    num_layers=st.integers(1, 6),
    hidden_size=st.integers(1, 8),
    intermediate_size=st.integers(1, 8),
    vocab_size=st.integers(1, 8),
    num_attention_heads=st.just(2),
    num_key_value_heads=st.just(1),
    head_dim=st.just(2),
    rms_norm_eps=st.just(1e-6),
    hidden_act=st.just("silu"),
    max_context_tokens=st.just(16),
    rope=st.just(Rope(inv_freq=(1.0,))),
    sliding_windows=st.just(()),
    qkv_bias=st.booleans(),
    output_bias=st.booleans(),
    mlp_bias=st.booleans(),
    qk_norm=st.booleans(),
    tied_embeddings=st.booleans(),
)

arrays = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(NUMPY_DTYPES)), st.lists(st.integers(0, 4), max_size=3)).map(
        lambda chosen: _array(*chosen)
    ),
    max_size=6,
)


def _array(dtype: str, shape: list[int]) -> tuple[str, np.ndarray[Any, Any]]:
    numbers = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    return dtype, numbers.astype(NUMPY_DTYPES[dtype])


def _write(path: Path, tensors: dict[str, tuple[str, np.ndarray[Any, Any]]], piece: int) -> None:
    path.unlink(missing_ok=True)
    ordered = sorted(tensors.items(), key=lambda item: -item[1][1].itemsize)
    announced = [TensorToWrite(n, d, a.shape, a.nbytes) for n, (d, a) in ordered]
    with SafetensorsWriter(path, announced) as writer:
        for name, (_, array) in ordered:
            content = array.tobytes()
            for start in range(0, len(content), piece):
                writer.write(name, content[start : start + piece])
        assert writer.finish().num_bytes == path.stat().st_size


@_SHARED_FOLDER
@given(tensors=arrays, piece=st.integers(1, 64))
def test_what_is_written_in_pieces_is_read_by_us_and_by_the_safetensors_package(
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]], piece: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    _write(path, tensors, piece)
    ours, theirs = TensorFile(path), load_file(path)
    assert set(ours.tensors) == set(theirs) == set(tensors)
    for name, (dtype, array) in tensors.items():
        assert ours.tensors[name].dtype == dtype
        assert np.array_equal(ours.read(name), array)
        assert np.array_equal(theirs[name], array)
        assert ours.read(name).flags.aligned


@_SHARED_FOLDER
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), length=st.integers(0, 10_000))
def test_a_damaged_tensor_file_is_refused_or_reads_within_its_bounds(
    position: int, byte: int, length: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones((3, 2), np.float32), "b": np.zeros(5, np.float16)}, path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content[: max(1, length % (2 * len(content)))])
    with suppress(TensorFileError):
        file = TensorFile(path)
        for name, info in file.tensors.items():
            assert file.read(name).shape == info.shape


@given(shape=shapes, data=st.data())
def test_every_tensor_has_one_place_and_layers_are_numbered_from_zero(
    shape: ModelShape, data: st.DataObject
) -> None:
    num_input = data.draw(st.integers(0, shape.num_layers))
    num_output = data.draw(st.integers(0, shape.num_layers - num_input))
    placed = placements(shape, num_input, num_output)
    assert len({p.source for p in placed}) == len(placed)
    assert len({(p.part, p.name) for p in placed}) == len(placed)
    counts = dict(zip(Part, (num_input, shape.num_layers - num_input - num_output, num_output),
                      strict=True))  # fmt: skip
    for part, count in counts.items():
        names = [p.name for p in placed if p.part is part]
        layers = {int(n.split(".")[2]) for n in names if n.startswith("model.layers.")}
        assert layers == set(range(count))
    middle = [p for p in placed if p.part is Part.MIDDLE]
    assert all(p.name.startswith("model.layers.") for p in middle)
    assert any(p.source == "lm_head.weight" for p in placed) != shape.tied_embeddings


def tensors_of(shape: ModelShape) -> dict[str, WrittenTensor]:
    return {
        placement.source: WrittenTensor(dtype="F32", sha256=placement.source)
        for placement in placements(shape, 0, 0)
    }


@given(shape=shapes, data=st.data())
def test_the_fingerprint_covers_every_tensor_in_any_order(
    shape: ModelShape, data: st.DataObject
) -> None:
    parameters = {"rope_type": "default", "rope_theta": 1.0}
    tensors = tensors_of(shape)
    fingerprint = fingerprint_of(shape, parameters, tensors)
    order = data.draw(st.permutations(list(tensors)))
    assert fingerprint_of(shape, parameters, {name: tensors[name] for name in order}) == fingerprint
    changed = data.draw(st.sampled_from(order))
    for other in (
        {**tensors, changed: WrittenTensor(dtype="F32", sha256="another")},
        {**tensors, changed: WrittenTensor(dtype="BF16", sha256=changed)},
        {name: tensor for name, tensor in tensors.items() if name != changed},
    ):
        assert fingerprint_of(shape, parameters, other) != fingerprint


@given(shape=shapes)
def test_the_fingerprint_ignores_the_computed_frequencies_but_not_their_parameters(
    shape: ModelShape,
) -> None:
    moved = msgspec.structs.replace(shape, rope=Rope(inv_freq=(1.0 + 2**-23,)))
    parameters: dict[str, float | str] = {"rope_type": "default", "rope_theta": 1.0}
    tensors = tensors_of(shape)
    same = {fingerprint_of(s, parameters, tensors) for s in (shape, moved)}
    assert len(same) == 1
    assert fingerprint_of(shape, parameters | {"rope_theta": 2.0}, tensors) not in same


@pytest.fixture(scope="module")
def cloud_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    stories = Path(__file__).parents[2] / "models" / "stories260k"
    split(stories, folder / "out", 2, 1)
    return folder / "out" / "cloud"


@_SHARED_FOLDER
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_damaged_manifest_is_refused_or_still_describes_its_files(
    position: int, byte: int, cloud_bundle: Path
) -> None:
    path = cloud_bundle / "hat.json"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[position % len(damaged)] = byte
    path.write_bytes(damaged)
    try:
        with suppress(BundleError):
            assert load_bundle(cloud_bundle, "cloud").manifest.num_middle_layers == 2
    finally:
        path.write_bytes(whole)
