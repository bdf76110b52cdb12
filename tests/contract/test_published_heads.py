"""Published heads on the device: networks, graphs and chains equal their published description."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.head_networks import Eagle3Head, load_published_head
from adapters.importing.conversion import ImportLimits, import_head
from adapters.install import install_adapter
from adapters.network_parts import causal
from adapters.storage import load_adapter
from device_runtime.engines.engine import DraftRequest, SequenceId
from device_runtime.engines.head_adapter import HeadAdapter
from device_runtime.engines.onnx_engine import load_onnx_engine
from device_runtime.engines.submodel_engine import SubmodelEngine
from device_runtime.engines.torch_engine import load_torch_engine
from submodels.bundle.layer_weights import Placed
from submodels.bundle.layers import LayerCache
from submodels.random_models import RandomModel, make_random_model
from submodels.split import SplitOptions, split_checkpoint
from tests.support.published_heads import HeadOracle, HeadRecipe, TargetParts, make_head

MODEL = RandomModel(hidden_size=32, intermediate_size=48, max_context_tokens=96, num_layers=8)
RECIPES = {
    "eagle": HeadRecipe("eagle"),
    "eagle3": HeadRecipe("eagle3", draft_vocab_size=100),
    "eagle3-whole": HeadRecipe("eagle3", norm_before_residual=True, layer="layers.0"),
}
SPLITS = [(1, 0), (1, 2), (2, 0)]
PROMPT = (7, 3, 9, 1, 4, 11, 2)
NUM_DRAFTED = 4


class World:
    """A split model with an imported head, the model whole, and the head's description."""

    def __init__(self, folder: Path, name: str, num_input: int, num_output: int) -> None:
        make_random_model(MODEL, folder / "source")
        options = SplitOptions(
            str(folder / "source"),
            folder / "out",
            num_input,
            num_output,
            onnx_weights=("float32",),
        )
        self.device = split_checkpoint(options).out / "device"
        self.model: WholeModel = load_whole_model(folder / "out", folder / "out", Placed())
        recipe = RECIPES[name]
        head = make_head(self.model.manifest.shape, recipe)
        published = str(head.write(folder / "published"))
        import_head(published, self.device, folder / "adapter", ImportLimits(0.0, 8))
        install_adapter(self.device, folder / "adapter")
        self.stored = load_adapter(folder / "adapter", self.model.manifest)
        own = self.model.head
        parts = TargetParts(self.model.embedding, own.norm, own.eps, own.lm_head.weight)
        self.oracle = HeadOracle(head, parts)
        self.is_third = recipe.kind == "eagle3"
        self.comes_whole = num_output > 0
        self.num_cloud_layers = MODEL.num_layers - num_output

    @torch.inference_mode()
    def rows(self, text: Sequence[int]) -> list[Tensor]:
        """The whole model's rows `[T, H]` by depth."""
        model = self.model
        rows = [model.embedding[torch.tensor(list(text))]]
        for layer in (*model.input_layers, *model.middle_layers, *model.output_layers):
            rows.append(layer.forward(rows[-1], 0, LayerCache()))
        return rows

    def features(self, text: Sequence[int]) -> Tensor:
        """What the head is told of each position, once its rows have come down."""
        rows = self.rows(text)
        return self.oracle.features([rows[d] for d in ((2, 4, 5) if self.is_third else (8,))])

    def expected(self, text: Sequence[int], num_tokens: int = NUM_DRAFTED) -> list[int]:
        """The description's chain behind a text whose prompt had its last row come down, or all."""
        first = 1 if self.comes_whole else len(PROMPT)
        features = self.features(text)[first - 1 : len(text) - 1]
        return self.oracle.chain(text[first:], features, num_tokens)


@pytest.fixture(scope="module", params=[(n, *s) for n in RECIPES for s in SPLITS], ids=str)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), *request.param)


@pytest.fixture(params=["torch", "onnx"])
def engine(request: pytest.FixtureRequest, world: World) -> SubmodelEngine:
    if request.param == "torch":
        return load_torch_engine(world.device, 1, None, with_adapter=True)
    return load_onnx_engine(world.device, "float32", 1, None, "float32")


def told(world: World, engine: SubmodelEngine, sequence: SequenceId, text: Sequence[int]) -> None:
    """Make a text's rows and hand back the cloud's of its last part, as a reply does."""
    rows = [each.numpy() for each in world.rows(text)]
    first = 0 if world.comes_whole else len(PROMPT) - 1
    engine.input_rows(sequence, text, 0)
    _reply(world, engine, sequence, rows, first, len(text))


def _reply(
    world: World,
    engine: SubmodelEngine,
    sequence: SequenceId,
    rows: Sequence[np.ndarray],
    start: int,
    end: int,
) -> None:
    if engine.taps:
        depths = [d for d in range(MODEL.num_layers) if engine.taps >> d & 1]
        assert depths == [d for d in (2, 4, 5) if d > world.model.manifest.num_input_layers]
        taps = np.stack([rows[d][start:end] for d in depths], axis=1)
        engine.take_taps(sequence, taps, start)
    deep = rows[world.num_cloud_layers][start:end]
    engine.logits(sequence, deep, start, 1)


def drafted(
    engine: SubmodelEngine, sequence: SequenceId, text: Sequence[int], num_tokens: int = NUM_DRAFTED
) -> list[int]:
    """The greedy draft behind a text, whatever its probability."""
    request = DraftRequest(
        text[-1:], len(text) - 1, num_tokens, lambda logits, _: int(logits.argmax())
    )
    return list(engine.draft(sequence, request))


@torch.inference_mode()
def test_the_network_is_its_description(world: World) -> None:
    network = load_published_head(world.stored)
    text = (*PROMPT, 5, 8, 13)
    features = world.features(text)[:-1]
    embedded = world.model.embedding[torch.tensor(text[1:])]
    expected = world.oracle.estimates(text[1:], features)
    positions = torch.arange(len(embedded))
    whole = network.through(embedded[None], features[None], positions, causal)[0]
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    cache = LayerCache()
    network.extend(embedded[:6], 0, cache, features[:6])
    pieces = network.extend(embedded[4:], 4, cache, features[4:])
    torch.testing.assert_close(pieces, expected[4:], rtol=1e-4, atol=1e-5)
    if isinstance(network, Eagle3Head):
        logits, finite = network.logits(expected), world.oracle.logits(expected)
        torch.testing.assert_close(logits, finite[finite.isfinite()].view_as(logits))


def test_the_first_draft_is_the_descriptions_chain(world: World, engine: SubmodelEngine) -> None:
    sequence = engine.open()
    told(world, engine, sequence, PROMPT)
    text = (*PROMPT, 20)
    engine.input_rows(sequence, text[-1:], len(PROMPT))
    assert drafted(engine, sequence, text) == world.expected(text)
    assert drafted(engine, sequence, text) == world.expected(text), "again the same"


def test_drafts_after_refused_and_accepted_ones_are_the_descriptions_chains(
    world: World, engine: SubmodelEngine
) -> None:
    sequence = engine.open()
    told(world, engine, sequence, PROMPT)
    text: tuple[int, ...] = (*PROMPT, 20)
    for num_accepted in (0, NUM_DRAFTED, 2, 1):
        draft = drafted(engine, sequence, text)
        assert draft == world.expected(text)
        frame = (text[-1], *draft)
        engine.input_rows(sequence, frame, len(text) - 1)
        rows = [each.numpy() for each in world.rows((*text, *draft))]
        _reply(world, engine, sequence, rows, len(text) - 1, len(text) + NUM_DRAFTED)
        engine.prepare_draft(sequence, 32)
        text = (*text, *draft[:num_accepted], 30 + num_accepted)


def test_a_fork_and_a_new_turn_draft_as_if_the_prompts_rows_had_never_been(
    world: World, engine: SubmodelEngine
) -> None:
    if world.comes_whole:
        pytest.skip("every row comes down")
    sequence = engine.open()
    told(world, engine, sequence, (*PROMPT, 20, 21))
    fork = engine.fork(sequence, len(PROMPT) + 1)
    turn = (*PROMPT, 20, 40, 41, 42)
    engine.input_rows(fork, turn[len(PROMPT) + 1 :], len(PROMPT) + 1)
    rows = [each.numpy() for each in world.rows(turn)]
    _reply(world, engine, fork, rows, len(turn) - 1, len(turn))
    text = (*turn, 9)
    engine.input_rows(fork, text[-1:], len(turn))
    features = world.features(text)
    known = [len(PROMPT), len(PROMPT) + 1, len(turn)]
    expected = world.oracle.chain(
        [text[t] for t in known], features[[t - 1 for t in known]], NUM_DRAFTED
    )
    assert drafted(engine, fork, text) == expected


def test_a_head_that_was_told_nothing_drafts_nothing(world: World, engine: SubmodelEngine) -> None:
    sequence = engine.open()
    engine.input_rows(sequence, PROMPT, 0)
    assert drafted(engine, sequence, PROMPT) == []


@pytest.mark.parametrize(("weights", "least"), [("int8", 0.999), ("int4", 0.93)])
def test_integer_graphs_point_where_float32_ones_do(
    world: World, weights: str, least: float
) -> None:
    text = (*PROMPT, 20)
    rows = [each.numpy() for each in world.rows(text)]
    shallow = rows[world.model.manifest.num_input_layers]
    came = []
    for name in ("float32", weights):
        engine = load_onnx_engine(world.device, "float32", 1, None, name)
        draft_model = engine._submodels.draft_model
        assert draft_model is not None
        state = draft_model.new_adapter()
        assert isinstance(state, HeadAdapter)
        state.add(np.concatenate((rows[0], shallow), axis=1))
        depths = [d for d in range(MODEL.num_layers) if engine.taps >> d & 1]
        if depths:
            state.learn_taps(np.stack([rows[d] for d in depths], axis=1), 0)
        state.learn(rows[MODEL.num_layers], 0)
        estimate = state.estimate(shallow[-1:], len(text) - 1)
        came.append((estimate[0], draft_model.head(estimate)[0]))
    for exact, rounded in zip(*came, strict=True):
        assert exact @ rounded > least * np.linalg.norm(exact) * np.linalg.norm(rounded)
