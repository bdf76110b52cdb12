"""Small split models for adapter tests, text for them, and an adapter that is never wrong."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from adapters.data.corpus import STORY_END
from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.networks import AdapterNetwork, build_network, start_as
from adapters.storage import adapter_shape
from device_runtime.drafting.ngram import PromptLookup
from submodels.bundle.layer_weights import Placed
from submodels.random_models import RandomModel, make_random_model
from tests.support.split_models import split

SMALL = RandomModel(hidden_size=32, intermediate_size=48, max_context_tokens=96)


def make_bundles(
    folder: Path, num_input: int = 1, num_output: int = 0, model: RandomModel = SMALL
) -> tuple[Path, Path]:
    """Device and cloud bundles of a random model, in `folder`."""
    source = folder / "source"
    if not source.exists():
        make_random_model(model, source)
    out = folder / f"split-{num_input}-{num_output}"
    if not out.exists():
        split(source, out, num_input, num_output)
    return out / "device", out / "cloud"


def make_whole_model(
    folder: Path, num_input: int = 1, num_output: int = 0, model: RandomModel = SMALL
) -> WholeModel:
    """A random model put together from its bundles."""
    device, cloud = make_bundles(folder, num_input, num_output, model)
    return load_whole_model(device, cloud, Placed())


def write_stories(path: Path, num_stories: int, num_words: int = 12, seed: int = 0) -> Path:
    """A text file of random words, stories separated as in real ones."""
    generator = torch.Generator().manual_seed(seed)
    words = ("hat", "cat", "sat", "mat", "on", "the", "a", "red", "big")

    def story() -> str:
        picks = torch.randint(len(words), (num_words,), generator=generator).tolist()
        return " ".join(words[pick] for pick in picks) + "."

    path.write_text(f"\n{STORY_END}\n".join(story() for _ in range(num_stories)))
    return path


def looked_up(text: Sequence[int], num_tokens: int) -> Sequence[int]:
    """What the device drafts without an adapter."""
    drafter = PromptLookup()
    drafter.extend(text)
    return drafter.propose(num_tokens)


def one_middle_layer(folder: Path, num_input: int = 1, num_output: int = 0) -> WholeModel:
    """A random model whose middle is one layer: that one is an adapter that is never wrong."""
    model = replace(SMALL, num_layers=num_input + 1 + num_output)
    return make_whole_model(folder, num_input, num_output, model)


def perfect_adapter(model: WholeModel) -> AdapterNetwork:
    """The middle layer itself, of a model that has one, so that every estimate is the deep row."""
    network = build_network("layer", adapter_shape(model.manifest.shape), closing_norm=False)
    start_as(network, model.middle_layers[0])
    return network.eval()
