"""`hat audit`: how it counts, its controls, its receipt, and what it prints and refuses."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from hat.audit.controls import judged, planted
from hat.audit.measuring import places
from hat.audit.receipt import Receipt, read_receipt, write_receipt
from hat.audit.report import rendered
from hat.audit.run import AuditOptions, audit
from hat.audit.scoring import scored
from hat.audit.thresholds import THRESHOLDS, Sizes
from hat.cli import FAILED, OK, USAGE, run
from hat.errors import CommandError
from tests.support.audit_tables import fresh_documents, shipped
from tests.support.split_models import split

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "models" / "stories260k"
STORIES = ROOT / "bench" / "workloads" / "data" / "tinystories.jsonl"
SMALL = Sizes(
    num_documents=4,
    prompt_tokens=16,
    answer_tokens=8,
    known_pairs=(128, 1024),
    search_documents=2,
    search_layer_rows=10_000,
    optimised_documents=2,
    optimised_tokens=8,
    optimised_steps=60,
    control_documents=4,
    control_tokens=10,
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "out"
    split(TOY, folder, 1, 0)
    return folder


def _options(bundles: Path, receipt: Path | None = None, **changes: object) -> AuditOptions:
    given = {"input_layers": (0, 1), "output_layers": (0, 1), "sizes": SMALL, **changes}
    known = ROOT / "bench" / "workloads" / "data" / "books.txt"
    return AuditOptions(bundles, STORIES, known, "hat audit out", receipt=receipt, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Receipt:
    path = tmp_path_factory.mktemp("receipt") / "receipt.json"
    receipt = audit(_options(bundles, path), lambda *_: None)
    assert read_receipt(path) == receipt
    return receipt


def test_figures_are_counted_by_token_and_by_document() -> None:
    said = [np.arange(10), np.arange(10, 20), np.array([7, 7, 7, 7, 1])]
    guesses = [np.arange(10), np.array([10, 11, 12, 0, 0, 0, 0, 0, 0, 0]), np.array([7, 7])]
    chance = np.random.default_rng(0)
    figure = scored("one", guesses, said, THRESHOLDS, chance, median_tried=3)
    assert (figure.num_right, figure.num_tokens) == (15, 22), "unasked positions do not count"
    assert (figure.documents_read, figure.num_documents) == (1, 2), "the third is a part of one"
    assert figure.prior == round(3 / 22, 4), "of the tokens that were asked for, 7 is commonest"
    assert figure.reads
    assert figure.median_tried == 3
    assert figure.shuffled < 0.4
    nine_of_ten = [np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 0])]
    assert scored("one", nine_of_ten, said[:1], THRESHOLDS, chance).documents_read == 1
    eight_of_ten = [np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 0])]
    assert scored("one", eight_of_ten, said[:1], THRESHOLDS, chance).documents_read == 0


def test_guessing_the_commonest_token_reads_nothing() -> None:
    said = [np.array([5, 5, 5, 5, 1, 2, 3, 4, 6, 7])]
    always = [np.full(10, 5)]
    figure = scored("one", always, said, THRESHOLDS, np.random.default_rng(0))
    assert figure.num_right == 4
    assert figure.shuffled == figure.prior == 0.4
    assert not figure.reads


def test_an_attack_passes_when_it_finds_what_was_planted_and_no_more() -> None:
    chance = np.random.default_rng(0)
    said = [chance.integers(0, 1000, 20) for _ in range(4)]
    documents = planted(said, 0.5, chance)
    assert documents.share == 0.5
    assert [any(a is b for b in said) for a in documents.shown] == [True, True, False, False]
    words = np.sort(np.concatenate(said))
    assert all(np.isin(shown, words).all() for shown in documents.shown)
    assert not any((a == b).any() for a, b in zip(said[2:], documents.shown[2:], strict=True))
    blind = [np.full(20, -1) for _ in said]
    half_blind = [ids if n % 2 else np.full(20, -1) for n, ids in enumerate(said)]
    dim = [*[np.where(np.arange(20) < 15, ids, -1) for ids in said[:2]], *blind[2:]]
    for guesses, passes in (
        (documents.shown, True),
        (blind, False),
        (said, False),
        (dim, False),
        (half_blind, True),
    ):
        control = judged("one", guesses, documents, THRESHOLDS, chance)
        assert control.passed is passes, guesses


def test_the_toy_is_read_where_it_must_be(made: Receipt) -> None:
    assert made.is_sound, rendered(made)
    assert {control.attack for control in made.controls} == {
        *("nearest embedding", "known pairs", "vocabulary search", "optimisation", "logit lens")
    }
    bare = made.cell("up", 0, "exact", 0.0)
    nearest = bare.figure("nearest embedding")
    assert nearest is not None
    assert nearest.num_right == nearest.num_tokens == 4 * 23
    assert nearest.documents_read == nearest.num_documents == 4
    for codec in ("exact", "int8", "int8 rotated"):
        searched = made.cell("up", 1, codec, 0.0).figure("vocabulary search")
        assert searched is not None
        assert searched.share == 1
        assert searched.num_matched == searched.num_tokens
    lens = made.cell("down", 0, "exact", 0.0).figure("logit lens, greedy")
    assert lens is not None
    assert (lens.num_right, lens.num_tokens) == (16, 16)
    above = made.cell("down", 1, "exact", 0.0)
    own = above.figure("own copy of the output layers, greedy")
    without = above.figure("logit lens, greedy")
    assert own is not None
    assert without is not None
    assert own.share == 1 > without.share


def test_more_known_pairs_teach_more(made: Receipt) -> None:
    cell = made.cell("up", 1, "exact", 0.0)
    few, many = cell.figure("known pairs", 128), cell.figure("known pairs", 1024)
    assert few is not None
    assert many is not None
    assert few.share < many.share


def test_other_ends_say_what_they_cost(made: Receipt) -> None:
    assert made.cell("up", 1, "exact", 0.0).perplexity_change is None
    change = made.cell("up", 1, "exact", 0.1).perplexity_change
    assert change is not None
    assert -0.05 < change < 0.5


def test_one_seed_gives_one_receipt_and_another_gives_others(
    bundles: Path, made: Receipt, tmp_path: Path
) -> None:
    again = audit(_options(bundles, input_layers=(0, 1)), lambda *_: None)
    assert msgspec.json.encode(again) == msgspec.json.encode(made)
    other = audit(_options(bundles, seed=1, input_layers=(1,), output_layers=(0,)), lambda *_: None)
    assert other.cell("up", 1, "exact", 0.0) != made.cell("up", 1, "exact", 0.0)


def test_an_audit_that_was_ended_goes_on_with_what_it_has(
    bundles: Path, made: Receipt, tmp_path: Path
) -> None:
    path = tmp_path / "receipt.json"
    kept = msgspec.structs.replace(made.cells[0], perplexity_change=9.0)
    write_receipt(path, msgspec.structs.replace(made, cells=(kept, *made.cells[3:])))
    shown: list[str] = []
    receipt = audit(_options(bundles, path), lambda what, *_: shown.append(what))
    assert receipt.cell("up", 0, "exact", 0.0).perplexity_change == 9.0, "not measured again"
    restored = [cell if cell is not kept else made.cells[0] for cell in receipt.cells]
    by_place = {cell.place: cell for cell in restored if cell.perplexity_change != 9.0}
    assert by_place == {cell.place: cell for cell in made.cells[1:]}
    assert "planting leaks" not in shown
    with pytest.raises(CommandError, match="of an audit with other settings"):
        audit(_options(bundles, path, seed=1), lambda *_: None)


def test_a_receipt_has_no_word_of_the_text(made: Receipt) -> None:
    written = msgspec.json.encode(made).decode().lower()
    words = {word for line in STORIES.read_text().splitlines() for word in line.lower().split()}
    long_words = [word for word in words if len(word) >= 6 and word.isalpha()]
    assert len(long_words) > 50
    own = {"receipt", "document", "documents", "another"}
    assert [word for word in long_words if f" {word} " in written and word not in own] == []
    assert str(Path.home()) not in written


def test_a_finding_where_labels_are_shuffled_is_a_failure(made: Receipt) -> None:
    figure = msgspec.structs.replace(made.cells[0].figures[0], shuffled=0.5)
    cell = msgspec.structs.replace(made.cells[0], figures=(figure,))
    bad = msgspec.structs.replace(made, cells=(cell,))
    assert not bad.shuffled_not_found
    assert not bad.is_sound
    assert "shuffled labels: FAILED" in rendered(bad)


def _command(bundles: Path, *more: str) -> list[str]:
    return ["audit", str(bundles), "--documents", "4", "--known-pairs", "64,256", *more]


def test_the_command_prints_tables_and_what_the_controls_say(
    bundles: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hat.commands.audit._sizes", lambda sizes, known_pairs: SMALL)
    path = tmp_path / "receipt.json"
    command = _command(bundles, "--text", str(STORIES), "--receipt", str(path))
    assert run(command) == OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("stories260k: 4 documents of tinystories.jsonl, ")
    assert "rows that go up, exact" in lines
    assert "rows that come back, int8 rotated" in lines
    assert lines[-3].startswith("planted leaks: passed; nearest embedding 50.0 % of 50.0 %")
    assert lines[-2].startswith("shuffled labels: passed; ")
    assert lines[-1].startswith("rotation: found by one least-squares solve")
    assert run([*command, "--json"]) == OK
    receipt = json.loads(capsys.readouterr().out)
    assert receipt == json.loads(path.read_text())
    assert receipt["command"] == (
        "hat audit out --text tinystories.jsonl --known-pairs 64,256 --documents 4 --seed 0"
    )
    assert torch.is_grad_enabled()


def test_what_cannot_be_audited_is_refused_in_one_line(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("a hat")
    (tmp_path / "odd.jsonl").write_text('{"words": 3}\n')
    (tmp_path / "torn.jsonl").write_text('{"text": "a\n')
    (tmp_path / "receipt.json").write_text("{}")
    for more, words in (
        (("--text", str(tmp_path / "no.txt")), "cannot read text from"),
        (("--text", str(tmp_path / "short.txt")), "no document of 8 tokens or more"),
        (("--text", str(tmp_path / "odd.jsonl")), "odd.jsonl, line 1: expected an object with a"),
        (("--text", str(tmp_path / "torn.jsonl")), "torn.jsonl, line 1: expected JSON, "),
        (("--known", str(tmp_path / "short.txt")), "has no text of 256 tokens"),
        (("--input-layers", "4", "--output-layers", "1"), "fewer than 5 layers on the device"),
        (("--known-pairs", "8"), "expected 16 known pairs or more, got 8"),
        (("--known-pairs", "1000000"), "known pairs, 1000000 are needed"),
        (("--receipt", str(tmp_path / "receipt.json")), "expected a receipt of `hat audit`"),
        (("--receipt", str(tmp_path / "no" / "receipt.json")), "there is no folder"),
    ):
        assert run(_command(bundles, *more)) == FAILED
        said = capsys.readouterr().err
        assert words in said
        assert said.splitlines()[-1].startswith("hat: ")
    assert run(["audit", str(tmp_path)]) == FAILED
    assert "expected a folder that `hat split` wrote" in capsys.readouterr().err
    assert run(_command(bundles, "--input-layers", "one")) == USAGE
    assert "expected numbers such as 0,1,2, got 'one'" in capsys.readouterr().err


def test_the_tables_in_the_documents_are_those_of_the_receipt() -> None:
    """Stale? `python -m tests.support.audit_tables` writes them."""
    for path, fresh in fresh_documents().items():
        assert path.read_text() == fresh, path


def test_the_receipt_of_the_documents_is_whole_and_of_todays_thresholds() -> None:
    receipt = shipped()
    assert receipt.is_sound
    plan = receipt.plan
    assert (plan.input_layers, plan.output_layers) == ((0, 1, 2, 4, 8), (0, 1, 2, 4))
    assert (plan.thresholds, plan.sizes) == (THRESHOLDS, Sizes())
    assert {cell.place for cell in receipt.cells} == set(places(plan))
