"""Medusa heads: training, files, the drafts they propose."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from adapters.medusa_heads import (
    HEADS_CARD_FILE,
    HEADS_WEIGHTS_FILE,
    MedusaError,
    MedusaHeads,
    load_heads,
)
from adapters.options import Recipe, TrialOptions
from adapters.training.medusa_training import (
    HeadsNetwork,
    HeadsOptions,
    tokens_per_round,
    train_heads,
)
from device_runtime.drafting.building import Drafted
from device_runtime.drafting.medusa import MedusaDrafter
from device_runtime.generation.request import GenerationRequest, SamplingParams
from device_runtime.sampling.noise import PositionNoise
from device_runtime.sampling.sampler import Sampler
from submodels.bundle.bundle import load_bundle
from tests.support.adapter_models import make_bundles, write_stories
from tests.support.drafts import NO_ENGINE, NO_SEQUENCE
from tests.support.reference import STORIES
from tests.support.stack import split_for_serving

HIDDEN_SIZE, VOCAB_SIZE = 4, 10


def known_heads() -> MedusaHeads:
    """Heads whose logits are the vocabulary's column 0: head d likes tokens d, d + 1, ... best."""
    vocabularies = np.zeros((3, VOCAB_SIZE, HIDDEN_SIZE), np.float32)
    for head in range(3):
        vocabularies[head, :, 0] = [-((token - head) % VOCAB_SIZE) for token in range(VOCAB_SIZE)]
    square = np.zeros((3, HIDDEN_SIZE, HIDDEN_SIZE), np.float32)
    norm = np.ones(HIDDEN_SIZE, np.float32)
    return MedusaHeads(1e-5, norm, square, square[:, 0], vocabularies)


def drafter(heads: MedusaHeads, **sampling: float) -> MedusaDrafter:
    request = GenerationRequest((1, 2), 20, SamplingParams(temperature=0.0, **sampling))
    return MedusaDrafter(heads, Sampler(request, VOCAB_SIZE, PositionNoise(1)))


def said(medusa: MedusaDrafter, most: int, text: tuple[int, ...] = (1, 2)) -> tuple[int, ...]:
    """What one pass says, of which `most` tokens are taken."""
    steps, begun = medusa.steps_behind(NO_SEQUENCE, text, 0)
    assert begun == ()
    taken: list[int] = []

    def take(drafted: Drafted) -> bool:
        assert 0.0 < drafted.confidence <= 1.0
        if len(taken) == most:
            return False
        taken.append(drafted.token_id)
        return True

    steps.step(NO_ENGINE.engine, (), take)
    return tuple(taken)


def test_a_draft_is_the_best_guess_of_each_head_in_turn() -> None:
    medusa = drafter(known_heads())
    assert said(medusa, 9) == ()
    medusa.decided((2,), np.array([1, 0, 0, 0], np.float32))
    assert said(medusa, 9) == (0, 1, 2)
    assert said(medusa, 2) == (0, 1)


def test_heads_say_nothing_behind_tokens_that_have_no_deep_row() -> None:
    medusa = drafter(known_heads())
    medusa.decided((2,), np.array([1, 0, 0, 0], np.float32))
    for draft, num_undecided in (((5,), 0), ((), 1)):
        steps, _ = medusa.steps_behind(NO_SEQUENCE, (1, 2), num_undecided)
        steps.step(NO_ENGINE.engine, draft, lambda drafted: pytest.fail("said something"))


def test_each_guess_counts_those_before_it_as_said() -> None:
    medusa = drafter(known_heads(), presence_penalty=2.0)
    medusa.decided((2,), np.array([-1, 0, 0, 0], np.float32))
    # Head d likes token d - 1 best, then the one before it, and each token only once.
    assert said(medusa, 3) == (9, 0, 1)


def test_a_draft_ends_where_a_heads_numbers_are_broken() -> None:
    heads = known_heads()
    heads.vocabularies[1] = np.nan
    medusa = drafter(heads)
    medusa.decided((2,), np.array([1, 0, 0, 0], np.float32))
    assert said(medusa, 3) == (0,)


def test_numpy_and_torch_heads_give_the_same_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    network = HeadsNetwork(3, torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    deep, norm = (torch.randn(HIDDEN_SIZE, generator=generator) for _ in range(2))
    parts = [p.detach().numpy() for p in (network.blocks, network.biases, network.vocabularies)]
    heads = MedusaHeads(1e-5, norm.numpy(), *parts)
    final = torch.nn.functional.rms_norm(deep, (HIDDEN_SIZE,), norm, 1e-5)
    expected = network(final[None]).detach().numpy()[:, 0]
    for num_heads in (3, 1):
        logits = heads.logits(deep.numpy(), num_heads)
        np.testing.assert_allclose(logits, expected[:num_heads], rtol=1e-5, atol=1e-5)


def test_rounds_of_a_chain_are_counted_along_the_text() -> None:
    right, wrong = (1.0, 1.0), (0.0, 0.0)
    texts = [np.array([right, wrong, wrong, (0.0, 1.0), (1.0, 0.0), right, wrong])]
    # From starts 0, 3, 4: three tokens, one and two.
    assert tokens_per_round(texts, 2) == 2.0
    # From starts 0, 2, 3, 4: two tokens, one, one and two.
    assert tokens_per_round(texts, 1) == 1.5


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
        trials=TrialOptions(2, prompt_tokens=(8,), continuation_tokens=20, max_draft_tokens=3),
    )
    card = train_heads(options)
    manifest = load_bundle(device, "device").manifest
    heads = load_heads(options.out, manifest)
    assert heads.num_heads == card.num_heads == len(card.training.first_choice_shares) == 4
    assert 1.0 <= card.training.tokens_per_round <= 5.0
    assert heads.logits(np.ones(32, np.float32), 9).shape == (4, manifest.shape.vocab_size)
    other = msgspec.structs.replace(manifest, fingerprint="0" * 64, source_fingerprint="0" * 64)
    with pytest.raises(MedusaError, match="of another model"):
        load_heads(options.out, other)
    weights = options.out / HEADS_WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(MedusaError, match="corrupt"):
        load_heads(options.out, manifest)


@pytest.mark.parametrize(
    "change", [{"format_version": 3}, {"num_heads": 0}, {"rms_norm_eps": "small"}]
)
def test_a_broken_card_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    shipped = STORIES.parent / "stories260k-medusa" / HEADS_CARD_FILE
    card = msgspec.json.decode(shipped.read_bytes())
    (tmp_path / HEADS_CARD_FILE).write_bytes(msgspec.json.encode(card | change))
    device, _ = make_bundles(tmp_path)
    manifest = load_bundle(device, "device").manifest
    with pytest.raises(MedusaError, match=r"medusa\.json"):
        load_heads(tmp_path, manifest)


def test_heads_whose_card_still_names_a_tree_are_loaded(tmp_path: Path) -> None:
    folder = STORIES.parent / "stories260k-medusa"
    assert b'"tree"' in (folder / HEADS_CARD_FILE).read_bytes()
    bundles = split_for_serving(STORIES, tmp_path / "split", 1)
    heads = load_heads(folder, load_bundle(bundles / "device", "device").manifest)
    assert heads.num_heads == 4


def test_the_shipped_heads_are_small() -> None:
    folder = STORIES.parent / "stories260k-medusa"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000
