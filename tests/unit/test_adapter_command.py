from pathlib import Path

import pytest

from adapters.storage import load_adapter
from hat.cli import FAILED, OK, USAGE, run
from submodels.bundle import load_bundle
from submodels.random_models import RandomModel
from tests.support.adapter_models import make_bundles, write_stories

# Longer than the prompts and continuations that the commands draft on.
MODEL = RandomModel(hidden_size=32, intermediate_size=48, max_context_tokens=256)


def bundle_with_long_context(folder: Path) -> Path:
    return make_bundles(folder, model=MODEL)[0].parent


def test_training_puts_an_adapter_into_the_bundle_and_eval_prints_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_with_long_context(tmp_path)
    text = str(write_stories(tmp_path / "text.txt", 120, num_words=80))
    held_out = str(write_stories(tmp_path / "held.txt", 10, num_words=80, seed=1))
    command = ["adapter", "train", str(bundle), "--text", text, "--held-out", held_out]
    assert run([*command, "--minutes", "0.02"]) == OK
    assert "Trained a layer adapter: " in capsys.readouterr().out
    device = load_bundle(bundle, "device", verify=True)
    card = load_adapter(device.path, device.manifest).card
    assert card.kind == "layer"
    # The same command again finds everything done.
    assert run([*command, "--minutes", "0.02"]) == OK
    device = load_bundle(bundle, "device", verify=True)
    assert load_adapter(device.path, device.manifest).card.weights == card.weights
    capsys.readouterr()
    assert run(["adapter", "eval", str(bundle), "--text", held_out, "--num-prompts", "2"]) == OK
    assert "| rule | drafting | tokens/round |" in capsys.readouterr().out


def test_a_folder_without_both_bundles_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("train", "eval"):
        assert run(["adapter", command, str(tmp_path), "--text", "x"]) == FAILED
        assert "expected the folder that `hat split` wrote" in capsys.readouterr().err


def test_text_that_is_missing_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(bundle_with_long_context(tmp_path))
    capsys.readouterr()
    assert run(["adapter", "train", bundle, "--text", str(tmp_path / "none.txt")]) == FAILED
    assert capsys.readouterr().err.startswith("hat: cannot read text from ")
    assert run(["adapter", "train", bundle]) == USAGE
