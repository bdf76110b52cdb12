import io
from pathlib import Path

import pytest

from adapters.data.conversations import CONVERSATIONS_FILE
from adapters.options import StageProgress
from adapters.storage import load_adapter
from adapters.training import fitting, trial_steps
from hat.cli import FAILED, INTERRUPTED, OK, USAGE, run
from hat.commands.adapter import NOT_BETTER
from hat.progress import StageLines
from submodels.bundle.bundle import load_bundle
from submodels.random_models import RandomModel
from tests.support.adapter_models import make_bundles, write_stories
from tests.support.stored_adapters import install_early_adapter

pytestmark = pytest.mark.slow

# Longer than the prompts and continuations that the commands draft on.
MODEL = RandomModel(hidden_size=32, intermediate_size=48, max_context_tokens=256)
ONE_MIDDLE_LAYER = RandomModel(
    num_layers=2, hidden_size=32, intermediate_size=48, max_context_tokens=256
)
"""Its middle layer itself is an adapter that is never wrong."""


def bundle_with_long_context(folder: Path, model: RandomModel = MODEL) -> Path:
    return make_bundles(folder, model=model)[0].parent


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of a few steps, however busy the machine is."""
    monkeypatch.setattr(fitting, "_MAX_PASSES", 1)
    monkeypatch.setattr(trial_steps, "MIN_STEPS", 1)


def training_command(folder: Path, bundle: Path) -> list[str]:
    text = str(write_stories(folder / "text.txt", 24, num_words=80))
    held_out = str(write_stories(folder / "held.txt", 3, num_words=80, seed=1))
    return ["adapter", "train", str(bundle), "--text", text, "--held-out", held_out]


def contents(bundle: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (bundle / "device").iterdir()}


@pytest.mark.usefixtures("short")
def test_training_puts_an_adapter_into_the_bundle_and_eval_prints_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_with_long_context(tmp_path)
    command = training_command(tmp_path, bundle)
    assert run([*command, "--force"]) == OK
    shown = capsys.readouterr().out
    assert "Took 16 steps of training in " in shown
    assert " seconds (the text was gone through often enough): a fed adapter, loss " in shown
    device = load_bundle(bundle, "device", verify=True)
    card = load_adapter(device.path, device.manifest).card
    assert card.kind == "fed"
    # The same command again finds everything done.
    assert run([*command, "--force"]) == OK
    device = load_bundle(bundle, "device", verify=True)
    assert load_adapter(device.path, device.manifest).card.weights == card.weights
    capsys.readouterr()
    held_out = str(tmp_path / "held.txt")
    assert run(["adapter", "eval", str(bundle), "--text", held_out, "--num-prompts", "2"]) == OK
    assert "| rule | drafting | tokens/round |" in capsys.readouterr().out


@pytest.mark.usefixtures("short")
def test_without_text_the_model_writes_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_with_long_context(tmp_path)
    command = ["adapter", "train", str(bundle), "--conversations", "24", "--answer-tokens", "20"]
    assert run([*command, "--force"]) == OK
    shown = capsys.readouterr()
    assert "the model writes conversations: 24 of 24 conversations" in shown.err
    assert "Conversations: " in shown.out
    conversations = bundle / "adapter-fed" / CONVERSATIONS_FILE
    there = conversations.read_bytes()
    assert run([*command, "--force"]) == OK
    assert "the model writes" not in capsys.readouterr().err
    assert conversations.read_bytes() == there
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"turns": ["the cat", "and?"]}\n' * 2)
    work = ["--work", str(tmp_path / "other")]
    assert run([*command, *work, "--prompts", str(questions)]) == FAILED
    assert "expected 20 conversations or more" in capsys.readouterr().err
    assert run([*command, "--prompts", "x", "--text", "y"]) == FAILED
    assert "give --text or --prompts, not both" in capsys.readouterr().err
    assert run([*command, "--held-out", "x"]) == FAILED
    assert "--held-out goes with --text" in capsys.readouterr().err


@pytest.mark.usefixtures("short")
def test_a_worse_adapter_is_not_installed_and_every_figure_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_with_long_context(tmp_path, ONE_MIDDLE_LAYER)
    install_early_adapter(bundle, tmp_path / "perfect")
    before = contents(bundle)
    # An attention adapter of a few steps is no match for the middle layer itself.
    command = [*training_command(tmp_path, bundle), "--kind", "attention"]
    assert run(command) == NOT_BETTER
    shown = capsys.readouterr().out
    figures = {
        line[:36].strip(): [float(x) for x in line[36:].split()]
        for line in shown.splitlines()
        if line.startswith("  ")
    }
    assert figures["no drafting"] == [1.0, 1.0]
    assert figures["before: the adapter that is there"][0] == pytest.approx(7.0)
    assert set(figures) >= {"prompt lookup (ngram)", "now: the new adapter"}
    assert "Not installed: the adapter that is there measures better" in shown
    assert str(bundle / "adapter-attention" / "adapter") in shown
    assert contents(bundle) == before
    assert run([*command, "--force"]) == OK
    assert "It was forced: the adapter that was there measures better." in capsys.readouterr().out
    device = load_bundle(bundle, "device", verify=True)
    assert load_adapter(device.path, device.manifest).card.kind == "attention"


@pytest.mark.usefixtures("short")
def test_a_better_adapter_takes_the_place_of_a_worse_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_with_long_context(tmp_path, ONE_MIDDLE_LAYER)
    command = training_command(tmp_path, bundle)
    assert run([*command, "--kind", "attention", "--force"]) == OK
    capsys.readouterr()
    # It begins as the middle layer, and nothing is changed about it.
    monkeypatch.setattr("adapters.options.Recipe.learning_rate", lambda *_: 0.0)
    assert run([*command, "--kind", "layer"]) == OK
    assert "Installed in " in (shown := capsys.readouterr().out)
    assert "forced" not in shown
    device = load_bundle(bundle, "device", verify=True)
    assert load_adapter(device.path, device.manifest).card.kind == "layer"


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("stage", ["states", "training", "calibration"])
def test_an_interrupted_training_leaves_what_was_there(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    bundle = bundle_with_long_context(tmp_path, ONE_MIDDLE_LAYER)
    install_early_adapter(bundle, tmp_path / "perfect")
    before = contents(bundle)

    def interrupted(lines: StageLines, progress: StageProgress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    monkeypatch.setattr(StageLines, "_take", interrupted)
    capsys.readouterr()
    assert run([*training_command(tmp_path, bundle), "--force"]) == INTERRUPTED
    assert "the bundle is as it was; the same command goes on" in capsys.readouterr().err
    assert contents(bundle) == before


def test_minutes_that_are_too_short_are_refused_with_those_that_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_with_long_context(tmp_path)
    before = contents(bundle)
    command = training_command(tmp_path, bundle)
    capsys.readouterr()
    assert run([*command, "--minutes", "0.00001"]) == FAILED
    said = capsys.readouterr().err
    assert said.startswith("hat: --minutes is too short: a training step takes ")
    assert (
        "so in 1e-05 min there are 0 steps; a training needs 100 at the very least (1 min)" in said
    )
    assert contents(bundle) == before


def test_without_a_terminal_stages_are_told_in_lines_now_and_then() -> None:
    stream, now = io.StringIO(), 0.0
    with StageLines(stream, lambda: now) as progress:
        for done in range(1, 101):
            progress(StageProgress("states", done, 100))
            now += 1.0
        progress(StageProgress("training", 1, 400, loss=1.25))
    assert stream.getvalue().splitlines() == [
        "running the whole model over the text: 1 of 100 windows",
        "running the whole model over the text: 31 of 100 windows",
        "running the whole model over the text: 61 of 100 windows",
        "running the whole model over the text: 91 of 100 windows",
        "running the whole model over the text: 100 of 100 windows",
        "training: 1 of 400 steps, loss 1.250",
    ]


def test_a_folder_without_both_bundles_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["adapter", "eval", str(tmp_path), "--text", "x"]) == FAILED
    assert "expected the folder that `hat split` wrote" in capsys.readouterr().err


def test_text_that_is_missing_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(bundle_with_long_context(tmp_path))
    capsys.readouterr()
    assert run(["adapter", "train", bundle, "--text", str(tmp_path / "none.txt")]) == FAILED
    assert capsys.readouterr().err.startswith("hat: cannot read text from ")
    assert run(["adapter", "eval", bundle]) == USAGE
