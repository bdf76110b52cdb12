"""EXACT rows of real models' states: how short they are, with the centres that a split measures."""

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from adapters.data.whole_model import load_whole_model
from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.coding_file import CODING_FILE, ChannelScales, read_channel_scales
from submodels.bundle.layer_weights import Placed
from submodels.calibration.passing import rows_on_the_link
from submodels.calibration.scales import channel_scales
from submodels.calibration.text import calibration_ids
from submodels.errors import BundleError
from submodels.split import SplitOptions, split_checkpoint
from tests.support.smollm2 import smollm2_in
from wire.coding.exact import ExactCoder
from wire.coding.tables import centres_of
from wire.messages import Dtype

MODELS = Path(__file__).parents[2] / "models"
STORIES = MODELS.parent / "bench" / "workloads" / "data" / "tinystories.jsonl"

MOST_OF_RAW = {1: 0.70, 5: 0.672, 256: 0.672}


def split(model: Path, out: Path, num_output_layers: int = 0) -> Path:
    options = SplitOptions(str(model), out, 1, num_output_layers, onnx_weights=())
    return split_checkpoint(options).out


@pytest.fixture(scope="module")
def storybook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split(MODELS / "storybook-7m", tmp_path_factory.mktemp("storybook") / "out")


def shares(folder: Path) -> dict[str, dict[int, float]]:
    """Coded bytes over RAW ones of a text that no centre was measured on, by direction and rows."""
    model = load_whole_model(folder / "device", folder / "cloud", Placed())
    scales = read_channel_scales(load_bundle(folder, "cloud"))
    text = " ".join(json.loads(line)["text"] for line in STORIES.read_text().splitlines()[:20])
    ids = Tokenizer.from_file(str(folder / "device" / "tokenizer.json")).encode(text).ids[:256]
    states = model.sequence().extend(ids, 0)
    return {
        "up": _shares(states.shallow.detach().numpy(), scales.up),
        "down": _shares(states.deep.detach().numpy(), scales.down),
    }


def _shares(rows: np.ndarray, scales: tuple[float, ...]) -> dict[int, float]:
    exact = ExactCoder(Dtype.BF16, centres_of(scales, Dtype.BF16))
    found = {}
    for num_rows in MOST_OF_RAW:
        frames = [
            rows[start : start + num_rows].astype(ml_dtypes.bfloat16).tobytes()
            for start in range(0, 256 - num_rows + 1, num_rows)
        ]
        coded = [exact.encode(raw, num_rows) for raw in frames]
        for raw, payload in zip(frames, coded, strict=True):
            assert payload is not None
            assert bytes(exact.decode(payload, num_rows)) == raw
        found[num_rows] = sum(map(len, filter(None, coded))) / sum(map(len, frames))
    return found


def test_states_of_a_trained_model_are_a_third_shorter(storybook):
    for of_direction in shares(storybook).values():
        for num_rows, share in of_direction.items():
            assert share <= MOST_OF_RAW[num_rows], num_rows


@pytest.mark.slow
def test_states_of_a_real_model_are_a_third_shorter(tmp_path):
    folder = split(smollm2_in(tmp_path), tmp_path / "out")
    for of_direction in shares(folder).values():
        for num_rows, share in of_direction.items():
            assert share <= MOST_OF_RAW[num_rows], num_rows


@pytest.mark.parametrize("num_output_layers", [0, 2])
def test_a_split_measures_what_the_whole_model_computes(tmp_path, num_output_layers):
    folder = split(MODELS / "stories260k", tmp_path / "out", num_output_layers)
    model = load_whole_model(folder / "device", folder / "cloud", Placed())
    manifest = model.manifest
    ids = calibration_ids(folder / "device", manifest.shape.vocab_size, 40)
    assert len(ids) == 40
    middle = range(1, manifest.shape.num_layers - num_output_layers)
    up, down = rows_on_the_link(folder / "device", folder / "cloud", manifest.shape, middle, ids)
    states = model.sequence().extend(ids, 0)
    np.testing.assert_allclose(up, states.shallow.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(down, states.deep.detach().numpy(), atol=1e-4)


def test_a_model_without_a_tokenizer_is_measured_with_any_tokens(tmp_path):
    ids = calibration_ids(tmp_path, 30, 12)
    assert len(ids) == 12
    assert all(0 <= token_id < 30 for token_id in ids)
    assert ids == calibration_ids(tmp_path, 30, 12)


def test_channels_that_are_larger_have_larger_scales():
    wanted = np.random.default_rng(0).uniform(-3, 3, 400)
    rows = np.random.default_rng(1).standard_normal((200, 400)) * 2.0**wanted
    rows[0] *= 100  # as the first token's row often is
    scales = np.array(channel_scales(rows.astype(np.float32)))
    off = scales - wanted
    assert np.abs(off - np.median(off)).max() < 0.6


def test_rows_that_are_not_finite_tell_nothing():
    rows = np.ones((3, 4), np.float32)
    rows[1, 2] = np.inf
    assert channel_scales(rows) == ()


def test_rows_of_zeros_have_scales():
    assert len(channel_scales(np.zeros((3, 4), np.float32))) == 4


def cloud_with(folder: Path, text: str | None) -> Bundle:
    bundle = load_bundle(folder, "cloud")
    files = dict(bundle.manifest.files)
    if text is None:
        del files[CODING_FILE]
    else:
        (bundle.path / CODING_FILE).write_text(text)
    manifest = msgspec.structs.replace(bundle.manifest, files=files)
    return dataclasses.replace(bundle, manifest=manifest)


def test_a_bundle_of_before_says_nothing_of_its_channels(tmp_path):
    folder = split(MODELS / "stories260k", tmp_path / "out")
    assert read_channel_scales(cloud_with(folder, None)) == ChannelScales()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"up": [1.0]}', "expected 64 channels, got 1"),
        ('{"up": "much"}', "is not valid"),
        ('{"down": [' + ", ".join(["1e30"] * 64) + "]}", "expected scales within 100"),
        ("[]", "not a valid JSON object"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, text, reason):
    folder = split(MODELS / "stories260k", tmp_path / "out")
    with pytest.raises(BundleError, match=reason):
        read_channel_scales(cloud_with(folder, text))


def test_what_a_later_split_says_besides_is_skipped(tmp_path):
    folder = split(MODELS / "stories260k", tmp_path / "out")
    assert read_channel_scales(cloud_with(folder, '{"outliers": [3]}')) == ChannelScales()
