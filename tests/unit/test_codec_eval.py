"""`hat codec-eval`: its figures against ones worked out apart, and what it prints and refuses."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adapters.data.whole_model import load_whole_model
from hat.cli import FAILED, OK, run
from hat.codec_eval.codecs import CodecUnderTest, Float32, Received
from hat.codec_eval.measure import WAYS, Evaluation
from submodels.bundle.coding_file import CODING_FILE
from submodels.bundle.layer_weights import Placed
from submodels.manifest import Manifest
from submodels.random_models import RandomModel, make_random_model
from tests.support.split_models import split

MODEL = RandomModel(tied=True)
PIECE = 32


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_random_model(MODEL, folder / "model")
    split(folder / "model", folder / "out", 1, 1)
    split(folder / "model", folder / "rotated", 1, 1, rotation_seed=0)
    return folder / "out"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    words = "the hat on the red cat is as large as the cat, and who wears it says so twice a day "
    (tmp_path / "text.txt").write_text(words * 4)
    return tmp_path / "text.txt"


def _halved(rows: Float32) -> Received:
    """A codec that is off by much, and takes one byte a number."""
    return Received(np.round(rows * 2) / 2, rows.size)


def test_figures_are_those_worked_out_apart(bundles: Path) -> None:
    model = load_whole_model(bundles, bundles, Placed(torch.float32))
    token_ids = np.arange(3, 3 + PIECE, dtype=np.int32)
    codec = CodecUnderTest("halved", _halved, _halved)
    [result] = Evaluation(model).run([token_ids, token_ids], [codec], lambda: None)

    sequence = model.sequence()
    states = sequence.extend(token_ids.tolist(), 0)

    def said(deep: torch.Tensor) -> NDArray[np.float64]:
        from submodels.bundle.layers import LayerCache, run_layers

        top = run_layers(model.output_layers, deep, 0, [LayerCache()])
        logits = model.head(top).double().numpy()
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    clean = said(states.deep)
    coded = said(torch.from_numpy(_halved(states.deep.numpy()).rows))
    tally = result.ways["down"]
    assert tally.num_positions == 2 * PIECE
    assert tally.agreement == np.mean(clean.argmax(-1) == coded.argmax(-1)) < 1
    assert tally.mean_kl == pytest.approx(np.mean((np.exp(clean) * (clean - coded)).sum(-1)), 1e-3)
    assert tally.mean_kl > 1e-3
    following = token_ids[1:, None]
    nll, clean_nll = (-np.take_along_axis(p[:-1], following, 1).mean() for p in (coded, clean))
    assert tally.clean_perplexity == pytest.approx(np.exp(clean_nll), 1e-4)
    assert tally.perplexity_change == pytest.approx(np.exp(nll - clean_nll) - 1, 1e-2)
    assert [result.ways[way].bits_per_value for way in WAYS] == [8, 8, 8]


def test_the_ways_are_up_down_and_both(bundles: Path) -> None:
    model = load_whole_model(bundles, bundles, Placed(torch.float32))
    seen: list[tuple[str, Float32]] = []

    def noting(way: str) -> CodecUnderTest:
        def passage(rows: Float32) -> Received:
            seen.append((way, rows))
            return _halved(rows)

        return passage  # type: ignore[return-value]

    codec = CodecUnderTest("noted", noting("up"), noting("down"))  # type: ignore[arg-type]
    token_ids = np.arange(3, 3 + PIECE, dtype=np.int32)
    Evaluation(model).run([token_ids], [codec], lambda: None)
    states = model.sequence().extend(token_ids.tolist(), 0)
    assert [way for way, _ in seen] == ["up", "down", "down"]
    assert np.allclose(seen[0][1], states.shallow, atol=1e-5)
    assert np.allclose(seen[1][1], states.deep, atol=1e-5)
    assert not np.allclose(seen[2][1], states.deep, atol=1e-2), "of rows that came up coded"


def _command(bundles: Path, text: Path, *more: str) -> list[str]:
    own = ["codec-eval", str(bundles), "--text", str(text), "--positions", "60"]
    return [*own, "--piece-tokens", str(PIECE), *more]


def test_a_table_names_codecs_and_figures(
    bundles: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_command(bundles, text, "--wire-dtype", "bfloat16")) == OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("1 input, 3 middle and 1 output layers, float32; 64 numbers a row")
    assert lines[1].startswith("64 positions of text.txt in pieces of 32, held against itself")
    names = [line.split("  ")[0] for line in lines[5:]]
    assert names == [
        *("raw bf16", "exact", "int8", "int6"),
        *("int8, 6 channels exact", "int6, 6 channels exact"),
    ]
    assert all(len(line) <= 100 for line in lines[3:])


def test_json_has_what_the_table_has_and_fewer_bits_cost_more(
    bundles: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_command(bundles, text, "--json", "--exact-channels", "0")) == OK
    result = json.loads(capsys.readouterr().out)
    codecs = {codec["name"]: codec for codec in result["codecs"]}
    assert (result["num_positions"], result["rotated"], result["reference"]) == (64, False, None)
    raw = codecs["raw fp32"]["both"]
    assert raw["bits_per_value"] == 32
    assert raw["argmax_agreement"] == 1
    for way in WAYS:
        kls = [codecs[name][way]["kl_nats"] for name in ("raw fp32", "int8", "int6")]
        assert 0 == round(kls[0], 9) < kls[1] < kls[2]


def test_a_rotated_split_in_float32_says_what_the_reference_says(
    bundles: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rotated = bundles.with_name("rotated")
    assert run(_command(rotated, text, "--json", "--reference", str(bundles))) == OK
    result = json.loads(capsys.readouterr().out)
    weights = result["codecs"][0]
    assert weights["name"] == "none (the weights alone)"
    assert result["rotated"]
    assert weights["up"]["bits_per_value"] is None
    assert weights["both"]["argmax_agreement"] == 1
    assert abs(weights["both"]["kl_nats"]) < 1e-8


def test_bundles_without_scales_leave_out_what_needs_them(
    bundles: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    split(bundles.with_name("model"), old, 1, 1)
    path = old / "cloud" / "hat.json"
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    del manifest.files[CODING_FILE]
    path.write_bytes(msgspec.json.encode(manifest))
    assert run(_command(old, text, "--wire-dtype", "bfloat16", "--json")) == OK
    names = [codec["name"] for codec in json.loads(capsys.readouterr().out)["codecs"]]
    assert names == ["raw bf16", "int8", "int6"]


def test_what_cannot_be_measured_is_refused_in_one_line(
    bundles: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (_command(tmp_path, text), "expected a folder that `hat split` wrote"),
        (_command(bundles, tmp_path / "no.txt"), "cannot read text"),
        (_command(bundles, text, "--positions", "9999"), "pieces of 32 tokens, 313 are needed"),
        (_command(bundles, text, "--piece-tokens", "513"), "at most 512 tokens, got 513"),
        (_command(bundles, text, "--device", "cuda:99"), "cannot compute on 'cuda:99'"),
    ):
        assert run(arguments) == FAILED
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
