"""`hat adapter import` from the command line: what it says, installs, refuses and leaves alone."""

from pathlib import Path

import pytest

from adapters.draft_cost import DraftCost
from adapters.storage import load_adapter, load_card
from hat.cli import FAILED, OK, USAGE, run
from hat.commands import adapter_cost
from process.errors import StartError
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
    assert "as was said, drafts of a fixed length end before a token less likely than 0.3" in said
    assert card.head is not None
    assert card.head.cost is not None
    assert (card.head.cost.round_ms, card.head.cost.row) == (100.0, 0.01)
    step_ms = card.head.cost.step_ms
    assert step_ms is not None
    assert f"measured here: a draft step takes {step_ms:.3g} ms" in said
    assert card.head.cost.step == pytest.approx(step_ms / 100)


def test_drafts_end_where_a_step_costs_more_than_it_brings(
    device: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(adapter_cost, "_step_s", lambda bundle, adapter: 0.004)
    head = published(device, tmp_path / "head", HeadRecipe("eagle"))
    assert run(["adapter", "import", head, str(device), "--round-ms", "40"]) == OK
    assert "a draft step takes 4 ms, which is 10 % of a round of 40 ms" in capsys.readouterr().out
    assert load_card(device).stop_threshold == pytest.approx(0.3)


def test_a_step_that_cannot_be_measured_is_assumed_and_said(
    device: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(bundle: Path, adapter: Path) -> float:
        raise StartError("planted")

    monkeypatch.setattr(adapter_cost, "_step_s", fail)
    head = published(device, tmp_path / "head", HeadRecipe("eagle"))
    assert run(["adapter", "import", head, str(device)]) == OK
    said = capsys.readouterr()
    assert "the time of a draft step is assumed, not measured: planted" in said.err
    assert "assumed: a draft step takes 5 % of a round and a drafted row 1 %" in said.out
    card = load_card(device)
    assert card.head is not None
    assert (card.head.cost, card.stop_threshold) == (DraftCost(), 0.15)


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
    threshold = load_card(device).stop_threshold
    assert f"| greedy | stop {threshold:g} | 1." in said
    assert "measured here: a draft step takes" in said
