"""storybook-7m: the split takes the adapter from beside the model, and it drafts well."""

from pathlib import Path

import pytest

from adapters.data.corpus import Corpus
from adapters.data.rounds import walk_rounds
from adapters.data.whole_model import load_whole_model
from adapters.measuring.drafters import load_drafter
from adapters.measuring.evaluate import greedy_trial, held_out_prompts
from adapters.options import TrialOptions
from adapters.storage import load_adapter
from hat.splitting import SplitRequest, split_model
from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed

ROOT = Path(__file__).resolve().parents[2]
STORYBOOK = ROOT / "models" / "storybook-7m"
HELD_OUT = ROOT / "tests" / "data" / "tinystories_held_out.txt"
TRIALS = TrialOptions(num_prompts=4, continuation_tokens=40)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("storybook") / "split"
    split_model(str(STORYBOOK), STORYBOOK, out, SplitRequest(None, None, "keep", ()))
    return out


def test_the_adapter_beside_the_model_drafts_well(bundles: Path) -> None:
    model = load_whole_model(bundles, bundles, Placed())
    stored = load_adapter(bundles / "device", model.manifest)
    drafter = load_drafter(model, stored)
    prompts = held_out_prompts(Corpus(model.device_bundle, (HELD_OUT,)), TRIALS)
    trials = [greedy_trial(model, drafter, prompt, TRIALS) for prompt in prompts]
    figures = walk_rounds(trials, stored.card.stop_threshold)
    # Four short continuations tell a working adapter from a broken one (about 1), and no more.
    assert figures.tokens_per_round > 0.6 * stored.card.training.stopped_tokens_per_round


def test_a_split_it_was_not_trained_for_goes_without(tmp_path: Path) -> None:
    request = SplitRequest(2, None, "keep", ())
    split_model(str(STORYBOOK), STORYBOOK, tmp_path / "split", request)
    bundle = load_bundle(tmp_path / "split", "device")
    assert "adapter.json" not in bundle.manifest.files
