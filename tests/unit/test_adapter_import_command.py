"""`hat adapter import` from the command line: what it says, installs, refuses and leaves alone."""

from pathlib import Path

import pytest

from adapters.storage import load_adapter
from adapters.training.train import stored_before
from hat.cli import FAILED, OK, USAGE, run
from submodels.bundle.bundle import load_bundle
from submodels.random_models import RandomModel
from tests.support.adapter_models import make_bundles, write_stories
from tests.support.published_heads import HeadRecipe, make_head

MODEL = RandomModel(hidden_size=32, intermediate_size=48, max_context_tokens=512, num_layers=8)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    return make_bundles(tmp_path, model=MODEL)[0]


def published(device: Path, folder: Path, recipe: HeadRecipe) -> str:
    shape = load_bundle(device, "device").manifest.shape
    return str(make_head(shape, recipe).write(folder))


def test_a_head_is_installed_and_the_line_says_what_it_reads(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = published(device, tmp_path / "head", HeadRecipe("eagle3", draft_vocab_size=100))
    command = ["adapter", "import", head, str(device.parent), "--stop-threshold", "0.3"]
    assert run([*command, "--max-draft-tokens", "3"]) == OK
    said = capsys.readouterr().out
    assert "reads rows after 2 and 4 and 5 layers and drafts 100 of 261 tokens" in said
    bundle = load_bundle(device, "device", verify=True)
    card = load_adapter(device, bundle.manifest).card
    assert (card.kind, card.stop_threshold, card.max_draft_tokens) == ("eagle3", 0.3, 3)
    assert stored_before(bundle) is None, "a training does not try it"


def test_another_head_takes_its_place_and_leaves_nothing_of_it(
    device: Path, tmp_path: Path
) -> None:
    first = published(device, tmp_path / "third", HeadRecipe("eagle3"))
    second = published(device, tmp_path / "first", HeadRecipe("eagle"))
    assert run(["adapter", "import", first, str(device)]) == OK
    assert run(["adapter", "import", second, str(device)]) == OK
    bundle = load_bundle(device, "device", verify=True)
    assert load_adapter(device, bundle.manifest).card.kind == "eagle"
    assert bundle.unlisted() == ()


def test_what_is_refused_changes_nothing(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in device.iterdir()}
    assert run(["adapter", "import", str(tmp_path / "source"), str(device)]) == FAILED
    assert "a model of 8 layers, no drafting head" in capsys.readouterr().err
    assert run(["adapter", "import", "x", str(device), "--depths", "2,x"]) == USAGE
    assert run(["adapter", "import", str(tmp_path), str(device)]) == FAILED
    assert {path.name: path.read_bytes() for path in device.iterdir()} == before


def test_a_head_is_evaluated_as_any_adapter(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = published(device, tmp_path / "head", HeadRecipe("eagle3", draft_vocab_size=100))
    assert run(["adapter", "import", head, str(device)]) == OK
    text = write_stories(tmp_path / "text.txt", 2, num_words=60)
    command = ["adapter", "eval", str(device.parent), "--text", str(text), "--num-prompts", "2"]
    assert run(command) == OK
    said = capsys.readouterr().out
    assert "eagle3 adapter (" in said
    assert "| greedy | stop 0.15 | 1." in said
