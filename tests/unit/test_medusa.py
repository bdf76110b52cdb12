"""Medusa heads: training, files, the tree they propose."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from adapters.distill import Recipe
from adapters.medusa_heads import (
    HEADS_CARD_FILE,
    HEADS_WEIGHTS_FILE,
    MedusaError,
    MedusaHeads,
    TreeNode,
    load_heads,
)
from adapters.options import TrialOptions
from adapters.training.medusa_training import (
    HeadsNetwork,
    HeadsOptions,
    choose_tree,
    tokens_per_round,
    train_heads,
)
from device_runtime.drafting.medusa import MedusaDrafter
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from submodels.bundle.bundle import load_bundle
from tests.support.adapter_models import make_bundles, write_stories
from tests.support.reference import STORIES

HIDDEN_SIZE, VOCAB_SIZE = 4, 10
TREE = (TreeNode(0, 0), TreeNode(1, 0), TreeNode(0, 1), TreeNode(3, 1), TreeNode(4, 0))


def known_heads(tree: tuple[TreeNode, ...] = TREE) -> MedusaHeads:
    """Heads whose logits are the vocabulary's column 0: head d likes tokens d, d + 1, ... best."""
    vocabularies = np.zeros((3, VOCAB_SIZE, HIDDEN_SIZE), np.float32)
    for head in range(3):
        vocabularies[head, :, 0] = [-((token - head) % VOCAB_SIZE) for token in range(VOCAB_SIZE)]
    square = np.zeros((3, HIDDEN_SIZE, HIDDEN_SIZE), np.float32)
    norm = np.ones(HIDDEN_SIZE, np.float32)
    return MedusaHeads(tree, 1e-5, norm, square, square[:, 0], vocabularies)


def drafter(heads: MedusaHeads) -> MedusaDrafter:
    request = GenerationRequest((1, 2), 20, SamplingParams(temperature=0.0))
    return MedusaDrafter(heads, Sampler(request, VOCAB_SIZE, PositionNoise(1)))


def test_the_tree_holds_each_heads_best_guesses() -> None:
    medusa = drafter(known_heads())
    assert medusa.propose(9) == ((), ())
    medusa.decided(np.array([1, 0, 0, 0], np.float32))
    assert medusa.propose(9) == ((0, 1, 1, 2, 2), (0, 0, 1, 0, 3, 4))
    assert medusa.propose(3) == ((0, 1, 1), (0, 0, 1, 0))
    assert medusa.propose(0) == ((), ())


def test_numpy_and_torch_heads_give_the_same_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    network = HeadsNetwork(3, torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    deep, norm = (torch.randn(HIDDEN_SIZE, generator=generator) for _ in range(2))
    parts = [p.detach().numpy() for p in (network.blocks, network.biases, network.vocabularies)]
    heads = MedusaHeads((), 1e-5, norm.numpy(), *parts)
    final = torch.nn.functional.rms_norm(deep, (HIDDEN_SIZE,), norm, 1e-5)
    expected = network(final[None]).detach().numpy()[:, 0]
    np.testing.assert_allclose(heads.logits(deep.numpy()), expected, rtol=1e-5, atol=1e-5)


def test_the_tree_is_that_of_the_likeliest_paths_and_its_rounds_are_counted() -> None:
    texts = [[(0, 0), (0, 3), (1, 0), (0, 0), (9, 9), (0, 1)]]
    tree = choose_tree(texts, 3)
    assert tree == (TreeNode(0, 0), TreeNode(1, 0), TreeNode(0, 1))
    # From starts 0, 3: three tokens each, then the text ends.
    assert tokens_per_round(texts, tree) == 3.0
    assert tokens_per_round(texts, ()) == 1.0


def test_trained_heads_can_be_loaded_for_their_model_only(tmp_path: Path) -> None:
    device, cloud = make_bundles(tmp_path)
    text = write_stories(tmp_path / "text.txt", 40)
    options = HeadsOptions(
        device_bundle=device,
        cloud_bundle=cloud,
        text=(text,),
        work=tmp_path / "work",
        out=tmp_path / "heads",
        recipe=Recipe(steps=6, batch_windows=2, warmup_steps=2),
        num_nodes=5,
        trials=TrialOptions(2, prompt_tokens=(8,), continuation_tokens=20, max_draft_tokens=3),
    )
    card = train_heads(options)
    manifest = load_bundle(device, "device").manifest
    heads = load_heads(options.out, manifest)
    assert heads.tree == card.tree
    assert len(card.tree) <= 5
    assert heads.logits(np.ones(32, np.float32)).shape == (4, manifest.shape.vocab_size)
    other = msgspec.structs.replace(manifest, fingerprint="0" * 64, source_fingerprint="0" * 64)
    with pytest.raises(MedusaError, match="of another model"):
        load_heads(options.out, other)
    weights = options.out / HEADS_WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(MedusaError, match="corrupt"):
        load_heads(options.out, manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"tree": []},
        {"tree": [[1, 0]]},
        {"tree": [[0, rank] for rank in range(31)]},
        {"format_version": 2},
        {"num_heads": 0},
        {"x": 1},
    ],
)
def test_a_broken_card_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    shipped = STORIES.parent / "stories260k-medusa" / HEADS_CARD_FILE
    card = msgspec.json.decode(shipped.read_bytes())
    (tmp_path / HEADS_CARD_FILE).write_bytes(msgspec.json.encode(card | change))
    device, _ = make_bundles(tmp_path)
    manifest = load_bundle(device, "device").manifest
    with pytest.raises(MedusaError, match=r"medusa\.json"):
        load_heads(tmp_path, manifest)


def test_the_shipped_heads_are_small() -> None:
    folder = STORIES.parent / "stories260k-medusa"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000
