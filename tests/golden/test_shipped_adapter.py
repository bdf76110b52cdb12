from pathlib import Path

import pytest

from adapters.data.corpus import Corpus
from adapters.data.rounds import RoundFigures, walk_rounds
from adapters.data.whole_model import load_whole_model
from adapters.measuring.drafters import load_drafter
from adapters.measuring.evaluate import greedy_trial, held_out_prompts
from adapters.options import TrialOptions
from adapters.storage import AdapterCard, load_adapter
from submodels.bundle.layer_weights import Placed
from tests.support.reference import STORIES
from tests.support.split_models import split

SHIPPED = STORIES.parent / "stories260k-adapter"
HELD_OUT = Path(__file__).parent.parent / "data" / "tinystories_held_out.txt"
TRIALS = TrialOptions(num_prompts=12, continuation_tokens=60)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterCard, RoundFigures]:
    out = tmp_path_factory.mktemp("stories") / "split"
    split(STORIES, out, 1)
    model = load_whole_model(out, out, Placed())
    stored = load_adapter(SHIPPED, model.manifest)
    drafter = load_drafter(model, stored)
    prompts = held_out_prompts(Corpus(model.device_bundle, (HELD_OUT,)), TRIALS)
    trials = [greedy_trial(model, drafter, prompt, TRIALS) for prompt in prompts]
    return stored.card, walk_rounds(trials, stored.card.stop_threshold)


def test_the_shipped_adapter_fits_the_shipped_model_and_drafts_well(
    shipped: tuple[AdapterCard, RoundFigures],
) -> None:
    card, figures = shipped
    assert card.kind == "layer"
    # A fifth below what its card says: twelve prompts are few.
    assert figures.tokens_per_round > 0.8 * card.training.stopped_tokens_per_round
    assert card.training.tokens_per_round > 2.3
