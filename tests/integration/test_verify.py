"""`hat verify` on the model in the repository: right as it is, wrong with one number changed."""

import json
import shutil
from pathlib import Path

import pytest

from hat.cli import run
from tests.support.changed_weights import change_one_weight
from tests.support.reference import PROMPTS, STORIES
from tests.support.stack import split_for_serving

WEIGHT = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_for_serving(STORIES, tmp_path_factory.mktemp("verify") / "m1", 1)


@pytest.fixture
def changeable(bundles: Path, tmp_path: Path) -> Path:
    """A copy of the bundles that a test may spoil."""
    shutil.copytree(bundles, tmp_path / "bundles")
    return tmp_path / "bundles"


def _verify(capsys: pytest.CaptureFixture[str], bundles: Path, *flags: str) -> tuple[int, str]:
    """The exit code and the report."""
    code = run(["verify", str(STORIES), str(bundles), "--max-tokens", "20", *flags])
    return code, capsys.readouterr().out


def _line(report: str, name: str) -> str:
    return next(line for line in report.splitlines() if line.startswith(f"  {name} "))


def test_the_model_in_the_repository_passes(
    capsys: pytest.CaptureFixture[str], bundles: Path
) -> None:
    code, report = _verify(capsys, bundles, "--num-draws", "200")
    assert code == 0, report
    for name in ("files", "ends", "greedy", "logprobs", "text", "sampled"):
        assert " ok " in _line(report, name)
    assert "16 prompts" in report


def test_an_end_of_text_that_the_bundle_does_not_know_fails_by_name(
    capsys: pytest.CaptureFixture[str], changeable: Path
) -> None:
    path = changeable / "device" / "hat.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"eos_token_ids": [1, 5]}))
    code, report = _verify(capsys, changeable, "--num-draws", "0", "--num-prompts", "2")
    assert code == 1
    assert "FAILED" in _line(report, "ends")
    assert "2 (</s>) ends a text of the unsplit model only" in report
    assert "5 (" in report


def test_settings_that_only_the_split_model_has_show_in_its_texts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ids that we give to both models cannot show it: penalties, template, tokenizer are shared."""
    model = Path(shutil.copytree(STORIES, tmp_path / "model"))
    settings = json.loads((model / "generation_config.json").read_text())
    settings["repetition_penalty"] = 1.8
    (model / "generation_config.json").write_text(json.dumps(settings))
    other = split_for_serving(model, tmp_path / "split", 1)
    flags = ("--num-draws", "0", "--num-prompts", "2", "--engine", "torch")
    code, report = _verify(capsys, other, *flags)
    assert code == 1
    assert " ok " in _line(report, "greedy")
    assert "FAILED" in _line(report, "text")
    assert " of the answer: unsplit " in report


def test_prompts_of_a_file_are_used(capsys: pytest.CaptureFixture[str], bundles: Path) -> None:
    flags = ("--prompts", str(PROMPTS), "--num-prompts", "3", "--num-draws", "0")
    code, report = _verify(capsys, bundles, *flags)
    assert code == 0, report
    assert "3 prompts" in _line(report, "greedy")
    assert "sampled" not in report


def test_one_changed_weight_fails_with_the_position_named(
    capsys: pytest.CaptureFixture[str], changeable: Path
) -> None:
    change_one_weight(changeable, WEIGHT, 3.0, keeps_hash=False)
    code, report = _verify(capsys, changeable, "--num-draws", "0")
    assert code == 1
    assert " ok " in _line(report, "files")
    assert "FAILED" in _line(report, "greedy")
    after = report.partition(_line(report, "greedy"))[2]
    assert after.strip().startswith("prompt ")
    assert "(position " in after
    assert "; margin " in after


def test_a_change_too_small_for_other_ids_fails_by_log_probability(
    capsys: pytest.CaptureFixture[str], changeable: Path
) -> None:
    change_one_weight(changeable, WEIGHT, 0.2, keeps_hash=False)
    code, report = _verify(capsys, changeable, "--num-draws", "0", "--num-prompts", "4")
    assert code == 1
    assert "FAILED" in _line(report, "logprobs")
    assert "(position " in report


def test_a_changed_file_is_caught_by_its_hash_before_anything_runs(
    capsys: pytest.CaptureFixture[str], changeable: Path
) -> None:
    change_one_weight(changeable, WEIGHT, 3.0, keeps_hash=True)
    code, report = _verify(capsys, changeable)
    assert code == 1
    assert "model.safetensors is corrupt: " in _line(report, "files")


def test_bfloat16_shows_margins_and_does_not_fail(
    capsys: pytest.CaptureFixture[str], bundles: Path
) -> None:
    flags = ("--dtype", "bfloat16", "--num-draws", "100", "--num-prompts", "4")
    code, report = _verify(capsys, bundles, *flags)
    assert code == 0
    assert " shown " in _line(report, "greedy")
    assert "smallest margin" in report


def test_bundles_of_another_place_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(STORIES), "no/such/bundles"]) == 1
    assert "expected a folder that `hat split` wrote" in capsys.readouterr().err
