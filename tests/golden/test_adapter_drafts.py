from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.data.chains import (
    Choose,
    Continuation,
    Coupled,
    Forced,
    continue_prompt,
    draft_everywhere,
    greedy,
)
from adapters.data.rounds import exact_acceptance, rejection_acceptance
from adapters.data.whole_model import WholeModel
from adapters.networks import build_network
from adapters.storage import adapter_shape
from submodels.bundle.layer_weights import Placed
from submodels.bundle.layers import LayerCache, embed, run_layers
from submodels.errors import BundleError
from tests.support.adapter_models import (
    SMALL,
    PerfectAdapter,
    make_bundles,
    make_whole_model,
)
from tests.support.reference import greedy as reference_greedy
from tests.support.reference import load_reference

PROMPT = [7, 3, 9, 1, 4]
NUM_TOKENS = 14
LIMIT = 4
SPLITS = [(0, 0), (1, 0), (1, 1), (2, 2)]


def written(model: WholeModel, choose: Choose) -> Continuation:
    return continue_prompt(model, PROMPT, NUM_TOKENS, choose, frozenset())


def test_what_the_target_writes_is_what_transformers_generates(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path)
    expected = reference_greedy(
        load_reference(tmp_path / "source"), PROMPT, NUM_TOKENS, ignore_eos=True
    )
    assert tuple(written(model, greedy).token_ids[len(PROMPT) :]) == expected.ids


@pytest.mark.parametrize("choose", [greedy, Coupled(3)], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("num_input", "num_output"), SPLITS)
def test_an_adapter_that_is_never_wrong_is_always_accepted(
    tmp_path: Path, num_input: int, num_output: int, choose: Choose
) -> None:
    model = make_whole_model(tmp_path, num_input, num_output)
    text = written(model, choose)
    drafts = draft_everywhere(model, PerfectAdapter(model), text, LIMIT, choose)
    chosen = text.token_ids[len(PROMPT) :]
    accepted = exact_acceptance(drafts.token_ids, chosen)
    within = np.arange(NUM_TOKENS)[:, None] + np.arange(LIMIT) < NUM_TOKENS
    np.testing.assert_array_equal(accepted, within)


def test_the_rejection_rule_always_keeps_what_draft_and_target_agree_on(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path, 1, 1)
    text = written(model, Coupled(5))
    forced = Forced([*text.token_ids, *[0] * LIMIT])
    drafts = draft_everywhere(model, PerfectAdapter(model), text, LIMIT, forced)
    target = text.probabilities[len(PROMPT) :].tolist()
    shares = rejection_acceptance(drafts.probabilities, target)
    whole = NUM_TOKENS - LIMIT + 1
    np.testing.assert_allclose(shares[:whole], 1.0, atol=1e-4)


@pytest.mark.parametrize(("num_input", "num_output"), SPLITS)
@torch.inference_mode()
def test_drafts_equal_those_made_without_any_cache(
    tmp_path: Path, num_input: int, num_output: int
) -> None:
    model = make_whole_model(tmp_path, num_input, num_output)
    network = build_network("layer", adapter_shape(model.manifest.shape), closing_norm=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(2)))
    text = written(model, greedy)
    drafts = draft_everywhere(model, network, text, LIMIT, greedy)
    for start in (0, 1, 6):
        committed = list(text.token_ids[: len(PROMPT) + start])
        for index in range(LIMIT):
            logits = _from_nothing(model, network.forward, text, committed, index)
            assert drafts.token_ids[start, index] == int(logits.argmax())
            confidence = float(logits.softmax(-1).max())
            assert drafts.confidences[start, index] == pytest.approx(confidence, abs=1e-4)
            committed.append(int(logits.argmax()))


def _from_nothing(
    model: WholeModel,
    adapter: torch.nn.Module,
    text: Continuation,
    token_ids: list[int],
    num_drafted: int,
) -> torch.Tensor:
    """Draft logits after all tokens, of which the last `num_drafted` are drafted."""
    rows = embed(model.embedding, token_ids)
    caches = [LayerCache() for _ in model.input_layers]
    shallow = run_layers(model.input_layers, rows, 0, caches)
    estimates = adapter(shallow[None])[0]
    # The deep state of the last committed token is not known either when drafting begins.
    num_known = len(token_ids) - num_drafted - 1
    deep = torch.cat((text.deep[:num_known], estimates[num_known:]))
    caches = [LayerCache() for _ in model.output_layers]
    top = run_layers(model.output_layers, deep, 0, caches)
    return model.head(top[-1:])[0]


def test_sampled_text_repeats_with_its_seed_and_follows_the_distribution(tmp_path: Path) -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    assert Coupled(1)(4, logits) == Coupled(1)(4, logits)
    draws = [Coupled(1)(position, logits) for position in range(4000)]
    shares = np.bincount(draws, minlength=3) / len(draws)
    np.testing.assert_allclose(shares, logits.softmax(-1), atol=0.03)


def test_bundles_of_two_splits_do_not_make_a_model(tmp_path: Path) -> None:
    device, _ = make_bundles(tmp_path, 1, 0, SMALL)
    _, cloud = make_bundles(tmp_path, 2, 0, SMALL)
    from adapters.data.whole_model import load_whole_model

    with pytest.raises(BundleError, match="not of one split"):
        load_whole_model(device, cloud, Placed())
