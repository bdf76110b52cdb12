"""Rotated weights: the matrix itself, what a bundle says of it, and what no longer fits it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.importing.conversion import import_head
from adapters.install import install_adapter
from adapters.storage import AdapterError
from submodels.bundle.bundle import load_bundle
from submodels.checkpoint.checkpoint import open_checkpoint
from submodels.plan.plan import read_model
from submodels.random_models import RandomModel, make_random_model
from submodels.rotation.rotated import rotated_checkpoint
from submodels.rotation.rotation import seeded_rotation
from submodels.tensors.tensor_file import TensorFile
from submodels.tensors.tensor_layout import EMBEDDING, Part, layer_name
from tests.support.published_heads import HeadRecipe, make_head
from tests.support.split_models import split

_NORM = "post_attention_layernorm"
STORIES = Path(__file__).parents[2] / "models" / "stories260k"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_random_model(RandomModel(tied=True, dtype="bfloat16"), folder)
    return folder


@given(hidden_size=st.integers(1, 200), seed=st.integers(0, 1000))
def test_every_size_has_an_orthogonal_matrix(hidden_size: int, seed: int) -> None:
    matrix = seeded_rotation(hidden_size, seed).turn(np.eye(hidden_size))
    assert np.allclose(matrix @ matrix.T, np.eye(hidden_size), atol=1e-12)


def test_a_seed_names_one_matrix() -> None:
    first, again, other = (seeded_rotation(96, seed).turn(np.eye(96)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("hidden_size", [64, 576, 4096])
def test_a_large_channel_is_spread_over_all(hidden_size: int) -> None:
    spike = np.eye(1, hidden_size, hidden_size // 3)
    spread = np.abs(seeded_rotation(hidden_size, 0).turn(spike))
    assert spread.max() < 3 * hidden_size**-0.5


def test_the_factors_of_common_sizes_are_small() -> None:
    sizes = [seeded_rotation(size, 0).sizes for size in (576, 896, 2048, 4096, 5120, 8192)]
    assert sizes == [(64, 9), (64, 2, 7), (64, 32), (64, 64), (64, 16, 5), (64, 64, 2)]


def test_the_manifest_says_that_weights_are_rotated(model: Path, tmp_path: Path) -> None:
    plain, rotated = (
        split(model, tmp_path / "a", 1),
        split(model, tmp_path / "b", 1, rotation_seed=3),
    )
    for manifest in (rotated.device, rotated.cloud):
        assert manifest.wire_rotation is not None
        assert (manifest.wire_rotation.seed, manifest.wire_rotation.sizes) == (3, (64,))
        assert not manifest.shape.tied_embeddings
    assert rotated.device.fingerprint == rotated.cloud.fingerprint
    fingerprints = {plain.device.fingerprint, plain.device.source_fingerprint}
    assert not fingerprints & {rotated.device.fingerprint, rotated.device.source_fingerprint}
    assert load_bundle(tmp_path / "b", "cloud", verify=True).manifest == rotated.cloud


def test_an_unrotated_manifest_does_not_speak_of_it(model: Path, tmp_path: Path) -> None:
    split(model, tmp_path / "out", 1)
    for side in ("device", "cloud"):
        assert b"rotation" not in (tmp_path / "out" / side / "hat.json").read_bytes()


def test_another_seed_has_another_fingerprint(model: Path, tmp_path: Path) -> None:
    names = {
        split(model, tmp_path / str(seed), 1, rotation_seed=seed).cloud.fingerprint
        for seed in (1, 2)
    }
    assert len(names) == 2


def test_rotated_numbers_are_kept_in_float32_unless_told_otherwise(
    model: Path, tmp_path: Path
) -> None:
    kept = split(model, tmp_path / "kept", 1, rotation_seed=1)
    rounded = split(model, tmp_path / "rounded", 1, rotation_seed=1, dtype="bfloat16")
    assert (kept.cloud.dtype, rounded.cloud.dtype) == ("float32", "bfloat16")
    names = ("kept", "rounded")
    exact, near = (
        TensorFile(tmp_path / name / "device" / Part.INPUT.value).read(EMBEDDING) for name in names
    )
    assert np.array_equal(exact.astype(ml_dtypes.bfloat16), near)


def test_an_adapter_for_the_plain_split_does_not_fit(tmp_path: Path) -> None:
    plain, rotated = tmp_path / "plain", tmp_path / "rotated"
    split(STORIES, plain, 1)
    split(STORIES, rotated, 1, rotation_seed=1)
    install_adapter(plain / "device", STORIES.with_name("stories260k-adapter"))
    with pytest.raises(AdapterError, match="trained for the model with fingerprint"):
        install_adapter(rotated / "device", STORIES.with_name("stories260k-adapter"))


def test_a_published_head_is_refused(model: Path, tmp_path: Path) -> None:
    rotated = split(model, tmp_path / "out", 1, rotation_seed=1)
    head = make_head(rotated.device.shape, HeadRecipe("eagle")).write(tmp_path / "head")
    with pytest.raises(AdapterError, match="rotated"):
        import_head(str(head), tmp_path / "out" / "device", tmp_path / "adapter")


def test_public_weights_give_the_rotation_away(model: Path, tmp_path: Path) -> None:
    """It is no defence, as the documents say: one least-squares solve finds the matrix."""
    split(model, tmp_path / "plain", 1, dtype="float32")
    split(model, tmp_path / "rotated", 1, rotation_seed=7)
    gate, norm = (layer_name(0, f"{name}.weight") for name in ("mlp.gate_proj", _NORM))
    plain, served = (
        TensorFile(tmp_path / name / "cloud" / Part.MIDDLE.value) for name in ("plain", "rotated")
    )
    public = plain.read(gate) * plain.read(norm)
    found = np.linalg.lstsq(public, served.read(gate), rcond=None)[0]
    assert np.abs(found - seeded_rotation(64, 7).turn(np.eye(64))).max() < 1e-4


@dataclass(frozen=True, slots=True)
class Crumbs:
    """A tensor that comes in pieces which end inside numbers' rows."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    numbers: bytes
    piece_bytes: int

    @property
    def num_bytes(self) -> int:
        return len(self.numbers)

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self.numbers), self.piece_bytes):
            yield self.numbers[start : start + self.piece_bytes]


@pytest.mark.parametrize("piece_bytes", [4, 100, 1 << 20])
def test_the_size_of_pieces_changes_nothing(model: Path, piece_bytes: int) -> None:
    checkpoint = open_checkpoint(model)
    shape = read_model(msgspec.json.decode((model / "config.json").read_bytes())).shape
    crumbs = {
        name: Crumbs(name, t.dtype, t.shape, b"".join(t.pieces()), piece_bytes)
        for name, t in checkpoint.tensors.items()
    }
    in_crumbs = type(checkpoint)(checkpoint.path, checkpoint.folder, crumbs)
    whole, pieced = (
        rotated_checkpoint(source, shape, seeded_rotation(shape.hidden_size, 0), "F32")[0].tensors
        for source in (checkpoint, in_crumbs)
    )
    assert whole.keys() == pieced.keys()
    for name in whole:
        one, other = (b"".join(tensors[name].pieces()) for tensors in (whole, pieced))
        assert (one, len(one)) == (other, whole[name].num_bytes), name
