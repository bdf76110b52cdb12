"""What a cloud may do with rows, on models small enough to know what must come out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapters.data.whole_model import load_whole_model
from device_runtime.engines.onnx_engine import load_onnx_engine
from hat.audit.attacks.inverter import fit_inverter
from hat.audit.attacks.lens import lens_scores
from hat.audit.attacks.nearest import nearest
from hat.audit.attacks.optimising import Beginning, optimise
from hat.audit.attacks.search import SearchBounds, likeliest_first, search
from hat.audit.cut_model import CutModel, cut_model, with_other_ends
from hat.audit.passages import Link, find_rotation, passage_of
from hat.audit.thresholds import THRESHOLDS
from submodels.bundle.layer_weights import Placed
from submodels.random_models import RandomModel, make_random_model
from tests.support.family_models import FAMILY_MODELS
from tests.support.split_models import split
from wire.messages import Dtype

TOY = Path(__file__).resolve().parents[2] / "models" / "stories260k"
WHOLE = SearchBounds(match=1e-3, most_candidates=1 << 20, most_layer_rows=1 << 30)
BFLOAT16 = replace(WHOLE, match=THRESHOLDS.match_exact)
STORY = (1, 403, 407, 261, 378, 283, 286, 264, 322, 456, 304, 351, 269, 430)


def _loaded(folder: Path) -> CutModel:
    with torch.no_grad():
        return cut_model(load_whole_model(folder, folder, Placed(torch.float32)))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> CutModel:
    folder = tmp_path_factory.mktemp("toy") / "out"
    split(TOY, folder, 1, 0)
    return _loaded(folder)


@pytest.fixture(autouse=True)
def _no_gradients() -> None:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


def _rows(model: CutModel, depth: int) -> Tensor:
    return model.traced(STORY, [depth])[depth]


def _any_order(model: CutModel) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randperm(len(model.table), generator=generator)


def test_without_layers_the_nearest_embedding_is_the_token(toy: CutModel) -> None:
    assert tuple(nearest(_rows(toy, 0), toy.table).tolist()) == STORY


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_trying_the_vocabulary_recovers_every_token(toy: CutModel, depth: int) -> None:
    order = _any_order(toy)
    found = search(_rows(toy, depth), toy.ends(depth), lambda position: order, WHOLE)
    assert found.token_ids == STORY
    assert all(found.are_matches)
    places = [order.tolist().index(token_id) for token_id in STORY]
    assert all(place < tried for place, tried in zip(places, found.num_tried, strict=True))
    assert found.num_layer_rows == sum(found.num_tried) * max(1, depth)


def test_rows_of_a_device_that_computes_otherwise_are_read_as_well(tmp_path: Path) -> None:
    """The device's layers are ONNX Runtime's, the attacker's the reference ones."""
    split(TOY, tmp_path / "out", 2, 0, onnx_weights=("float32",))
    engine = load_onnx_engine(tmp_path / "out" / "device", "float32", 1, None)
    sent = torch.from_numpy(engine.input_rows(engine.open(), STORY, 0).astype("float32"))
    passage = passage_of("exact", Link(Dtype.BF16, sent, False, None))
    assert passage is not None
    model = _loaded(tmp_path / "out")
    order = _any_order(model)
    found = search(passage(sent), model.ends(2), lambda position: order, BFLOAT16)
    assert found.token_ids == STORY
    assert all(found.are_matches)


@pytest.mark.parametrize(
    "name", ["gemma3", "gemma4", "gpt-oss", "cohere2", "granite", "mixtral sliding"]
)
def test_layers_of_every_kind_are_searched(name: str, tmp_path: Path) -> None:
    """Windows, sinks, caps, experts and halves side by side are the reference layers' own."""
    make_random_model(FAMILY_MODELS[name], tmp_path / "model")
    split(tmp_path / "model", tmp_path / "out", 1, 0)
    model = _loaded(tmp_path / "out")
    order = _any_order(model)
    token_ids = tuple(token_id % 256 for token_id in STORY)
    rows = model.traced(token_ids, [2])[2]
    found = search(rows, model.ends(2), lambda position: order, WHOLE)
    assert found.token_ids == token_ids
    assert all(found.are_matches)


def test_a_search_ends_where_one_matches_and_where_it_is_told_to(toy: CutModel) -> None:
    rows, ends = _rows(toy, 1), toy.ends(1)
    first = [torch.tensor([token_id, *range(512)]) for token_id in STORY]
    found = search(rows, ends, first.__getitem__, WHOLE)
    assert set(found.num_tried) == {16}
    short = SearchBounds(match=1e-3, most_candidates=1 << 20, most_layer_rows=3 * 16)
    assert search(rows, ends, first.__getitem__, short).token_ids == STORY[:3]


def test_where_layers_are_others_nothing_matches_and_the_nearest_is_taken(toy: CutModel) -> None:
    device = with_other_ends(toy, 1, 0, 0.05, seed=1)
    order = _any_order(toy)
    bounds = SearchBounds(match=1e-3, most_candidates=512, most_layer_rows=1 << 30)
    found = search(_rows(device, 1), toy.ends(1), lambda position: order, bounds)
    assert not any(found.are_matches)
    assert set(found.num_tried) == {512}
    assert found.token_ids == STORY, "5 % of the weights are no defence"


def test_candidates_go_by_their_best_rank() -> None:
    scores = (torch.tensor([0.0, 3.0, 2.0, 1.0]), torch.tensor([9.0, 0.0, 1.0, 2.0]))
    assert likeliest_first(scores).tolist() == [0, 1, 2, 3]
    assert likeliest_first(scores[:1]).tolist() == [1, 2, 3, 0]


def test_pairs_teach_a_rotation_and_shuffled_pairs_teach_nothing(toy: CutModel) -> None:
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=generator))[0]
    # Tokens of bytes are not trained: their embeddings are nearly the same.
    token_ids = torch.randint(260, 512, (300,), generator=generator)
    rows = toy.table[token_ids] @ turn
    shuffled = token_ids[torch.randperm(300, generator=generator)]
    asked, wanted = rows[:100], token_ids[:100]
    unseen = torch.tensor([i for i in range(260, 512) if i not in token_ids[:250].tolist()])
    assert len(unseen) > 50
    inverter = fit_inverter(rows[:250], token_ids[:250], toy.table)
    assert torch.equal(inverter.guess(asked), wanted)
    assert (inverter.guess(toy.table[unseen] @ turn) == unseen).float().mean() > 0.95
    wrong = fit_inverter(rows[:250], shuffled[:250], toy.table)
    assert (wrong.guess(rows[250:]) == token_ids[250:]).float().mean() < 0.05


def test_fewer_pairs_than_16_are_refused(toy: CutModel) -> None:
    with pytest.raises(ValueError, match="expected 16 or more pairs, got 15"):
        fit_inverter(toy.table[:15], torch.arange(15), toy.table)


def test_the_lens_says_what_the_device_says_and_less_without_its_layers(toy: CutModel) -> None:
    said = toy.logits(_rows(toy, 5), 5).argmax(-1)
    assert torch.equal(lens_scores(_rows(toy, 5), (), toy.head).argmax(-1), said)
    below = _rows(toy, 3)
    assert torch.equal(lens_scores(below, toy.layers[3:], toy.head).argmax(-1), said)
    assert not torch.equal(lens_scores(below, (), toy.head).argmax(-1), said)


@pytest.mark.parametrize("depth", [1, 2])
def test_soft_embeddings_find_the_tokens(toy: CutModel, depth: int) -> None:
    rows = _rows(toy, depth)
    beginning = Beginning(rows, rows.std(0))
    found = optimise(rows, toy.ends(depth), beginning, 100)
    assert tuple(found.token_ids.tolist()) == STORY
    assert found.distance < 0.1
    again = optimise(rows, toy.ends(depth), beginning, 100)
    assert again.distance == found.distance
    barely = optimise(rows, toy.ends(depth), beginning, 1)
    assert barely.distance > 2 * found.distance


def test_other_ends_are_as_far_away_as_was_asked_and_the_middle_stays(toy: CutModel) -> None:
    moved = with_other_ends(toy, 2, 1, 0.3, seed=1)
    for index, (own, other) in enumerate(zip(toy.layers, moved.layers, strict=True)):
        before, after = own.weights.q.weight, other.weights.q.weight
        distance = float((after - before).norm() / before.norm())
        assert distance == (0 if index in (2, 3) else pytest.approx(0.3, rel=0.05))
    assert float((moved.table - toy.table).norm() / toy.table.norm()) == pytest.approx(0.3, 0.05)
    one = with_other_ends(toy, 1, 1, 0.3, seed=1)
    assert torch.equal(one.layers[0].weights.o.weight, moved.layers[0].weights.o.weight)


def test_a_rotation_is_found_from_the_weights_that_are_served(toy: CutModel) -> None:
    found = find_rotation(toy.layers[2], seed=5)
    assert found is not None
    assert found.error < 1e-4
    rows = _rows(toy, 2)
    link = Link(Dtype.FP32, rows, False, found)
    passages = {codec: passage_of(codec, link) for codec in ("exact", "int8", "int8 rotated")}  # type: ignore[arg-type]
    came = {codec: passage(rows) for codec, passage in passages.items() if passage is not None}
    assert torch.equal(came["exact"], rows)
    for codec in ("int8", "int8 rotated"):
        distance = float((came[codec] - rows).norm() / rows.norm())
        assert 1e-4 < distance < 0.02, codec


def test_rows_are_those_of_the_wires_format(toy: CutModel) -> None:
    rows = _rows(toy, 1)
    passage = passage_of("exact", Link(Dtype.BF16, rows, False, None))
    assert passage is not None
    assert torch.equal(passage(rows), rows.bfloat16().float())
    assert passage_of("int8 rotated", Link(Dtype.BF16, rows, False, None)) is None


def test_layers_that_no_rotation_goes_through_have_none(tmp_path: Path) -> None:
    make_random_model(
        RandomModel("mixtral", extra={"num_local_experts": 2, "num_experts_per_tok": 1}),
        tmp_path / "model",
    )
    split(tmp_path / "model", tmp_path / "out", 1, 0)
    assert find_rotation(_loaded(tmp_path / "out").layers[2], seed=0) is None
