"""Blocks drafted along a text are those of the formula behind each of its positions."""

from pathlib import Path

import numpy as np
import torch

from adapters.data.chains import Continuation, draft_everywhere, greedy
from adapters.data.draft_head import draft_head
from adapters.networks import BlockAdapter
from submodels.bundle.layers import LayerCache, embed, run_layers
from tests.support.adapter_models import make_whole_model
from tests.support.block_reference import block_rows
from tests.support.stored_adapters import random_network

NUM_PROMPT_TOKENS = 4
NUM_TOKENS = 8
BLOCK = 6


def test_blocks_everywhere_are_those_of_the_formula(tmp_path: Path) -> None:
    model = make_whole_model(tmp_path)
    network = random_network(model.manifest, "block", closing_norm=False)
    assert isinstance(network, BlockAdapter)
    token_ids = [7, 3, 9, 1, 4, 11, 30, 2, 8]
    vocabulary = np.arange(1, 60, 2, dtype=np.int32)
    deep = model.sequence().extend(token_ids, 0).deep
    text = Continuation(token_ids, NUM_PROMPT_TOKENS, deep, np.zeros(len(token_ids)))
    head = draft_head(model, vocabulary)
    drafts = draft_everywhere(model, network, text, NUM_TOKENS, greedy, head)
    caches = [LayerCache() for _ in model.input_layers]
    rows = embed(model.embedding, token_ids)
    shallow = run_layers(model.input_layers, rows, 0, caches).numpy()
    first = NUM_PROMPT_TOKENS - 1
    assert drafts.token_ids.shape == (len(token_ids) - 1 - first, NUM_TOKENS)
    for start, drafted in enumerate(drafts.token_ids, first):
        # Of the prompt only the last position's row came down.
        known = {at: deep[at].numpy() for at in range(first, start)}
        behind = block_rows(network, model.head, model.embedding, shallow[: start + 1], known)
        logits = torch.from_numpy(behind(drafted[: BLOCK - 1].tolist()))[:, vocabulary]
        assert drafted[:BLOCK].tolist() == vocabulary[logits.argmax(-1)].tolist()
        shares = logits.softmax(-1).amax(-1).numpy()
        here = start - first
        np.testing.assert_allclose(drafts.confidences[here, :BLOCK], shares, rtol=1e-4)
        np.testing.assert_allclose(drafts.probabilities[here, :BLOCK], shares, rtol=1e-4)
        # A block is no longer than it is.
        assert drafted[BLOCK:].tolist() == [-1, -1]
