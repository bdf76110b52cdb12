"""Training Medusa-1 heads: `python -m adapters.training.medusa_training --help`.

The target stays as it is. Head d learns the target's own distribution d places further on, along
the text it reads: cross-entropy to the target's probabilities, not to the text's tokens.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.data.choosing import greedy
from adapters.data.corpus import Corpus, Share, Windows, collect_windows
from adapters.data.features import FeatureBatch, FeatureFile, cached_features, layout_of
from adapters.data.rounds import Trial, walk_rounds
from adapters.data.sample import Sample
from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.measuring.evaluate import held_out_prompts
from adapters.medusa_heads import (
    HEADS_FORMAT_VERSION,
    HeadsCard,
    HeadsTraining,
    write_heads_card,
    write_heads_weights,
)
from adapters.options import Recipe, TrialOptions
from adapters.training.learning.descent import descend, new_optimizer, smoothed
from adapters.writing.answers import Ending, continue_prompt
from submodels.bundle.layer_weights import Placed
from submodels.manifest import BundleFile

Hits = NDArray[np.float64]
"""1 where a head's best guess is the target's token, else 0: `[S, N]`, a row per position."""


@dataclass(frozen=True, slots=True)
class HeadsOptions:
    """What to train, from which text, and how."""

    device_bundle: Path
    cloud_bundle: Path
    text: tuple[Path, ...]
    work: Path
    out: Path
    recipe: Recipe
    num_heads: int = 4
    max_tokens: int = 1_000_000
    trials: TrialOptions = field(default_factory=TrialOptions)


class HeadsNetwork(nn.Module):
    """All heads over rows after the final norm; they begin as the model's own LM head."""

    def __init__(self, num_heads: int, lm_head: Tensor) -> None:
        super().__init__()
        hidden_size = lm_head.shape[1]
        self.blocks = nn.Parameter(torch.zeros(num_heads, hidden_size, hidden_size))
        self.biases = nn.Parameter(torch.zeros(num_heads, hidden_size))
        self.vocabularies = nn.Parameter(lm_head.float().repeat(num_heads, 1, 1))

    def forward(self, final: Tensor) -> Tensor:
        """Logits `[N, R, V]` of rows `[R, H]`."""
        gate = torch.einsum("nkh,rh->nrk", self.blocks, final) + self.biases[:, None]
        hidden = final + nn.functional.silu(gate)
        return torch.einsum("nvh,nrh->nrv", self.vocabularies, hidden)


def heads_loss(network: HeadsNetwork, model: WholeModel, batch: FeatureBatch) -> Tensor:
    """Mean cross-entropy to the target's probabilities, summed over heads."""
    final = model.final(batch.top).float()
    with torch.no_grad():
        probabilities = model.head.lm_head(final).float().softmax(-1)
    num_heads = network.blocks.shape[0]
    # Rows from which every head still finds a target in its own window.
    known = batch.within[:, num_heads:]
    logits = network(final[:, :-num_heads][known])
    loss: Tensor = logits.new_zeros(())
    for index in range(num_heads):
        end = probabilities.shape[1] - num_heads + 1 + index
        target = probabilities[:, 1 + index : end][known]
        loss = loss + nn.functional.cross_entropy(logits[index], target)
    return loss


def fit_heads(
    options: HeadsOptions, model: WholeModel, features: FeatureFile, num_windows: int
) -> tuple[HeadsNetwork, float]:
    """Trained heads, and the loss of about the last hundred steps."""
    recipe = options.recipe
    network = HeadsNetwork(options.num_heads, model.head.lm_head.weight.detach())
    optimizer = new_optimizer(network)
    recent_loss = 0.0
    for step in range(recipe.steps):
        batch = features.batch(recipe.windows_of(step, num_windows))
        loss = heads_loss(network, model, batch)
        loss_before = descend(optimizer, recipe, recipe.learning_rate(step), loss)
        recent_loss = smoothed(recent_loss, loss_before, step)
        if step % 100 == 99:
            print(f"step {step + 1} of {recipe.steps}: loss {recent_loss:.4f}", flush=True)
    return network.eval(), recent_loss


@torch.inference_mode()
def greedy_hits(
    model: WholeModel, network: HeadsNetwork, prompts: Sequence[Sequence[int]], num_tokens: int
) -> list[Hits]:
    """Per prompt, where the heads are right along what the target writes greedily after it."""
    found = []
    ending = Ending(num_tokens, frozenset(model.manifest.eos_token_ids))
    num_heads = network.blocks.shape[0]
    for prompt in prompts:
        text = continue_prompt(model, prompt, greedy, ending)
        first, end = text.num_prompt_tokens - 1, len(text.token_ids) - num_heads - 1
        if end <= first:
            continue
        guesses = network(model.final(text.deep[first:end]).float()).argmax(-1)
        chosen = torch.tensor(text.token_ids).unfold(0, num_heads, 1)[first + 2 : end + 2]
        found.append((chosen == guesses.T).double().numpy())
    return found


def tokens_per_round(texts: Sequence[Hits], num_heads: int) -> float:
    """What chains of this many guesses bring, over the rounds that follow each other.

    Raises:
        ValueError: the texts are too short for one whole round.
    """
    trials = [Trial(hits[:, :num_heads], np.ones_like(hits[:, :num_heads])) for hits in texts]
    return walk_rounds(trials, 0.0).tokens_per_round


def train_heads(options: HeadsOptions) -> HeadsCard:
    """Train heads, measure what their guesses bring, and write them to `options.out`."""
    started_s = time.monotonic()
    model = load_whole_model(options.device_bundle, options.cloud_bundle, Placed())
    manifest = model.manifest
    if manifest.num_output_layers > 0:
        raise SystemExit("expected bundles without output layers")
    corpus = Corpus(model.device_bundle, options.text, Share.TRAINED)
    longest = min(512, manifest.shape.max_context_tokens)
    windows = collect_windows(corpus, Windows(max_tokens=longest), options.max_tokens)
    # Nothing of these texts is an answer: their rows are all that is kept.
    samples = [Sample(window, ()) for window in windows]
    layout = layout_of(manifest, is_wide=True, computed_in="float32")
    features = cached_features(
        lambda: model, manifest, samples, options.work, layout, lambda done, of: None
    )
    print(f"{len(windows)} windows, {time.monotonic() - started_s:.0f} s", flush=True)
    network, loss = fit_heads(options, model, features, len(windows))
    training_s = time.monotonic() - started_s
    held_out = Corpus(model.device_bundle, options.text, Share.HELD_OUT)
    prompts = held_out_prompts(held_out, options.trials)
    texts = greedy_hits(model, network, prompts, options.trials.continuation_tokens)
    for num_heads in range(1, options.num_heads + 1):
        figure = tokens_per_round(texts, num_heads)
        print(f"{num_heads} heads: {figure:.3f} tokens per round", flush=True)
    shares = np.concatenate(texts).mean(0)
    card = HeadsCard(
        format_version=HEADS_FORMAT_VERSION,
        fingerprint=manifest.fingerprint,
        hidden_size=manifest.shape.hidden_size,
        vocab_size=manifest.shape.vocab_size,
        num_heads=options.num_heads,
        rms_norm_eps=manifest.shape.rms_norm_eps,
        training=HeadsTraining(
            steps=options.recipe.steps,
            corpus_tokens=sum(map(len, windows)),
            loss=loss,
            training_s=round(training_s, 1),
            seed=options.recipe.seed,
            first_choice_shares=tuple(round(float(share), 4) for share in shares),
            tokens_per_round=round(tokens_per_round(texts, options.num_heads), 4),
        ),
        weights=_write(options.out, network, model),
    )
    write_heads_card(options.out, card)
    return card


def _write(folder: Path, network: HeadsNetwork, model: WholeModel) -> BundleFile:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"norm": model.head.norm.float().numpy()}
    parts = (network.blocks, network.biases, network.vocabularies)
    for index, (block, bias, vocabulary) in enumerate(zip(*parts, strict=True)):
        tensors[f"{index}.block.weight"] = block.detach().numpy()
        tensors[f"{index}.block.bias"] = bias.detach().numpy()
        tensors[f"{index}.vocabulary.weight"] = vocabulary.detach().numpy()
    return write_heads_weights(folder, tensors)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", type=Path, required=True, help="folder of both bundles")
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-windows", type=int, default=16)
    parser.add_argument("--peak-lr", type=float, default=1e-2)
    chosen = parser.parse_args()
    options = HeadsOptions(
        device_bundle=chosen.split / "device",
        cloud_bundle=chosen.split / "cloud",
        text=tuple(chosen.text),
        work=chosen.work,
        out=chosen.out,
        recipe=Recipe(chosen.steps, chosen.batch_windows, chosen.peak_lr),
    )
    card = train_heads(options)
    print(card.training)


if __name__ == "__main__":
    main()
