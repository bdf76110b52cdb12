from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.data.chains import Continuation, draft_everywhere, read_text
from adapters.data.choosing import Choice, Coupled, Forced, greedy, philox
from adapters.data.draft_head import draft_head
from adapters.data.rounds import exact_acceptance, rejection_acceptance
from adapters.data.whole_model import WholeModel
from adapters.networks import AdapterNetwork, BlockAdapter, FedAdapter
from adapters.storage import Kind
from adapters.writing.answers import Ending, continue_prompt
from submodels.bundle.layer_weights import Placed
from submodels.bundle.layers import LayerCache, run_layers
from submodels.errors import BundleError
from tests.support.adapter_models import (
    SMALL,
    make_bundles,
    make_whole_model,
    one_middle_layer,
    perfect_adapter,
)
from tests.support.block_reference import block_rows
from tests.support.reference import greedy as reference_greedy
from tests.support.reference import load_reference
from tests.support.stored_adapters import random_network

PROMPT = [7, 3, 9, 1, 4]
NUM_TOKENS = 14
NUM_STARTS = NUM_TOKENS - 1
LIMIT = 4
ENDING = Ending(NUM_TOKENS, frozenset())
SPLITS = [(0, 0), (1, 0), (1, 1), (2, 2)]


MODELS = {
    "plain": SMALL,
    "windows": replace(SMALL, family="mistral", extra={"sliding_window": 5}),
    "norms": replace(SMALL, family="qwen3", tied=True),
}


def written(model: WholeModel, choose: Choice) -> Continuation:
    return continue_prompt(model, PROMPT, choose, ENDING)


def choice(rule: str) -> Choice:
    """One for target or drafts; those of a rule choose alike."""
    return greedy if rule == "greedy" else Coupled(philox(3))


def test_what_the_target_writes_is_what_transformers_generates(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path)
    expected = reference_greedy(
        load_reference(tmp_path / "source"), PROMPT, NUM_TOKENS, ignore_eos=True
    )
    assert tuple(written(model, greedy).token_ids[len(PROMPT) :]) == expected.ids


@torch.inference_mode()
def test_a_text_is_read_piece_by_piece_with_what_the_target_gives_its_tokens(
    tmp_path: Path,
) -> None:
    model = make_whole_model(tmp_path, 1, 1, replace(SMALL, max_context_tokens=300))
    token_ids = torch.randint(3, 200, (270,), generator=torch.manual_seed(0)).tolist()
    text = read_text(model, token_ids, 100)
    states = model.sequence().extend(token_ids, 0)
    torch.testing.assert_close(text.deep, states.deep, rtol=1e-4, atol=1e-5)
    shares = model.head(states.top).softmax(-1)
    expected = [0.0] * 100 + [float(shares[at - 1, token_ids[at]]) for at in range(100, 270)]
    np.testing.assert_allclose(text.probabilities, expected, rtol=1e-3)


@pytest.mark.parametrize("rule", ["greedy", "sampled"])
@pytest.mark.parametrize(("num_input", "num_output"), SPLITS)
def test_an_adapter_that_is_never_wrong_is_always_accepted(
    tmp_path: Path, num_input: int, num_output: int, rule: str
) -> None:
    model = one_middle_layer(tmp_path, num_input, num_output)
    text = written(model, choice(rule))
    drafts = draft_everywhere(model, perfect_adapter(model), text, LIMIT, choice(rule))
    accepted = exact_acceptance(drafts.token_ids, text.token_ids[len(PROMPT) + 1 :])
    within = np.arange(NUM_STARTS)[:, None] + np.arange(LIMIT) < NUM_STARTS
    np.testing.assert_array_equal(accepted, within)


def test_the_rejection_rule_always_keeps_what_draft_and_target_agree_on(tmp_path: Path) -> None:
    model = one_middle_layer(tmp_path, 1, 1)
    text = written(model, choice("sampled"))
    forced = Forced([*text.token_ids, *[0] * LIMIT])
    drafts = draft_everywhere(model, perfect_adapter(model), text, LIMIT, forced)
    target = text.probabilities[len(PROMPT) + 1 :].tolist()
    shares = rejection_acceptance(drafts.probabilities, target)
    whole = NUM_STARTS - LIMIT + 1
    np.testing.assert_allclose(shares[:whole], 1.0, atol=1e-4)


def test_a_token_that_cannot_be_drafted_is_never_the_draft_models_own(tmp_path: Path) -> None:
    model = one_middle_layer(tmp_path)
    text = written(model, greedy)
    own = text.token_ids[len(PROMPT) + 1 :]
    known = np.array(sorted({*own} - {own[-1]}), np.int32)
    forced = Forced([*text.token_ids, *[0] * LIMIT])
    head = draft_head(model, known)
    drafts = draft_everywhere(model, perfect_adapter(model), text, 1, forced, head)
    is_known = np.isin(own, known)
    assert 0 < is_known.sum() < NUM_STARTS
    np.testing.assert_array_equal(drafts.probabilities[:, 0] > 0, is_known)
    assert (drafts.confidences[:, 0] > 0).all()


@pytest.fixture(scope="module", params=[*product(MODELS, [(1, 0), (2, 2)]), ("plain", (0, 0))])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WholeModel:
    name, split = request.param
    return make_whole_model(tmp_path_factory.mktemp("model"), *split, MODELS[name])


@pytest.mark.parametrize("rule", ["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["attention", "layer", "fed"])
@torch.inference_mode()
def test_drafts_are_those_made_anew_for_every_token(
    model: WholeModel, kind: Kind, rule: str
) -> None:
    """Side by side, over what can be drafted, and held against one row of one chain at a time."""
    network = random_network(model.manifest, kind, closing_norm=kind == "attention").eval()
    vocabulary = np.arange(3, model.manifest.shape.vocab_size, 2, dtype=np.int32)
    text = written(model, choice(rule))
    drafts = draft_everywhere(
        model, network, text, LIMIT, choice(rule), draft_head(model, vocabulary)
    )
    assert drafts.token_ids.shape == (NUM_STARTS, LIMIT)
    for start in (0, 1, 6, NUM_STARTS - 1):
        chain = chain_from_nothing(model, network, text, start, vocabulary, choice(rule))
        assert drafts.token_ids[start].tolist() == [token for token, _, _ in chain]
        of_own, largest = drafts.probabilities[start], drafts.confidences[start]
        np.testing.assert_allclose(of_own, [one for _, one, _ in chain], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(largest, [one for _, _, one in chain], rtol=1e-3, atol=1e-5)


def chain_from_nothing(
    model: WholeModel,
    network: AdapterNetwork,
    text: Continuation,
    start: int,
    vocabulary: np.ndarray,
    choose: Choice,
) -> list[tuple[int, float, float]]:
    """One draft behind a token of the answer, all rows anew for each of its own.

    Each token with its probability and the largest one there.
    """
    num_prompt = text.num_prompt_tokens
    num_decided = num_prompt + start + 1
    token_ids = list(text.token_ids[:num_decided])
    chain: list[tuple[int, float, float]] = []
    own: list[torch.Tensor] = []
    for _ in range(LIMIT):
        shallow = model.sequence().extend(token_ids, 0).shallow
        if isinstance(network, FedAdapter):
            # The deep row of the last decided token is not known when drafting begins.
            previous = torch.zeros_like(shallow)
            previous[num_prompt:num_decided] = text.deep[num_prompt - 1 : num_decided - 1]
            previous[num_decided:] = torch.stack(own) if own else previous[num_decided:]
            is_known = torch.arange(len(token_ids)) >= num_prompt
            estimates = network.extend(shallow, 0, LayerCache(), previous, is_known)
        else:
            estimates = network.extend(shallow, 0, LayerCache())
        own.append(estimates[-1])
        deep = torch.cat((text.deep[: num_decided - 1], estimates[num_decided - 1 :]))
        caches = [LayerCache() for _ in model.output_layers]
        top = run_layers(model.output_layers, deep, 0, caches)
        logits = torch.full((1, model.manifest.shape.vocab_size), -torch.inf)
        logits[:, vocabulary] = model.head(top[-1:])[:, vocabulary]
        token = int(choose(torch.tensor([len(token_ids)]), logits)[0])
        shares = logits[0].softmax(-1)
        chain.append((token, float(shares[token]), float(shares.max())))
        token_ids.append(token)
    return chain


@pytest.mark.parametrize("rule", ["greedy", "sampled"])
@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_blocks_are_those_made_place_by_place(tmp_path: Path, name: str, rule: str) -> None:
    model = make_whole_model(tmp_path, 2, 0, MODELS[name])
    network = random_network(model.manifest, "block", closing_norm=False).eval()
    assert isinstance(network, BlockAdapter)
    vocabulary = np.arange(3, model.manifest.shape.vocab_size, 2, dtype=np.int32)
    text, most = written(model, choice(rule)), network.block_size + 1
    head = draft_head(model, vocabulary)
    drafts = draft_everywhere(model, network, text, most, choice(rule), head)
    np.testing.assert_array_equal(drafts.token_ids[:, -1], -1)
    assert {len(one) for one in drafts.until_unsure(0.0)} == {network.block_size}
    first, states = len(PROMPT), model.sequence().extend(text.token_ids, 0)
    for start in (0, 1, 6, NUM_STARTS - 1):
        known = {at: text.deep[at].numpy() for at in range(first - 1, first + start)}
        shallow = states.shallow[: first + start + 1].numpy()
        logits = block_rows(network, model.head, model.embedding, shallow, known)
        chain: list[int] = []
        for place in range(network.block_size):
            masked = torch.full((1, model.manifest.shape.vocab_size), -torch.inf)
            masked[:, vocabulary] = torch.from_numpy(logits(chain))[-1:, vocabulary]
            chain.append(int(choice(rule)(torch.tensor([len(shallow) + place]), masked)[0]))
            shares, came = masked.softmax(-1)[0], (start, place)
            assert drafts.probabilities[came] == pytest.approx(float(shares[chain[-1]]), rel=1e-3)
            assert drafts.confidences[came] == pytest.approx(float(shares.max()), rel=1e-3)
        assert drafts.token_ids[start, :-1].tolist() == chain


@pytest.mark.parametrize("num_written", [0, 1])
def test_an_answer_without_a_second_token_has_no_drafts(tmp_path: Path, num_written: int) -> None:
    model = one_middle_layer(tmp_path)
    text = read_text(model, [*PROMPT, *[8] * num_written], len(PROMPT))
    drafts = draft_everywhere(model, perfect_adapter(model), text, LIMIT, greedy)
    assert drafts.token_ids.shape == drafts.confidences.shape == (0, LIMIT)


def test_sampled_text_repeats_with_its_seed_and_follows_the_distribution(tmp_path: Path) -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(4000, -1)
    positions = torch.arange(4000)
    draws = Coupled(philox(1))(positions, logits)
    torch.testing.assert_close(Coupled(philox(1))(positions[7:], logits[7:]), draws[7:])
    shares = np.bincount(draws, minlength=3) / len(draws)
    np.testing.assert_allclose(shares, logits[0].softmax(-1), atol=0.03)


def test_bundles_of_two_splits_do_not_make_a_model(tmp_path: Path) -> None:
    device, _ = make_bundles(tmp_path, 1, 0, SMALL)
    _, cloud = make_bundles(tmp_path, 2, 0, SMALL)
    from adapters.data.whole_model import load_whole_model

    with pytest.raises(BundleError, match="not of one split"):
        load_whole_model(device, cloud, Placed())
