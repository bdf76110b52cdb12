"""Drafted blocks, after whatever came before, are those of their formula from nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from adapters.install import install_adapter
from adapters.networks import BlockAdapter, load_network
from adapters.storage import load_adapter
from device_runtime.engines.engine import DraftRequest, Rows
from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed, load_embedding
from submodels.bundle.layers import load_head
from submodels.random_models import make_random_model
from tests.property.test_fed_drafts import (
    MAX_ROUNDING,
    MAX_TOKENS,
    VOCABULARY,
    FedDrafts,
    Subject,
    Text,
    backs,
)
from tests.support.adapter_models import SMALL
from tests.support.block_reference import block_rows
from tests.support.device_engines import DRAFTING_ENGINES
from tests.support.examples import at_most
from tests.support.split_models import split
from tests.support.stored_adapters import store_random_adapter


@dataclass(frozen=True, slots=True)
class BlockSubject(Subject):
    bundle: Path

    def block_logits(self, text: Text, drafted: tuple[int, ...]) -> Rows:
        """`[num_drafted, V]` behind the text's last token."""
        assert isinstance(self.network, BlockAdapter)
        bundle = load_bundle(self.bundle, "device")
        head, table = load_head(bundle, Placed()), load_embedding(bundle, Placed())
        sequence = self.engine.open()
        shallow = self.engine.input_rows(sequence, text.token_ids, 0)
        self.engine.release(sequence)
        logits = block_rows(self.network, head, table, shallow, text.deep)(drafted[:-1])
        if self.has_vocabulary:
            logits[:, np.setdiff1d(np.arange(logits.shape[1]), VOCABULARY)] = -np.inf
        return logits


class BlockDrafts(FedDrafts):
    @rule(
        which=st.integers(0, 3),
        back=backs,
        num=st.integers(1, 3),
        same=st.booleans(),
        num_drafted=st.integers(1, 8),
    )
    def draft(self, which: int, back: int, num: int, same: bool, num_drafted: int) -> None:
        text = self.pick(which)
        position = max(len(text.token_ids) - back, 0)
        if position + num > MAX_TOKENS:
            return
        token_ids = self.tokens(text, position, num, is_same=same)
        seen: list[Rows] = []

        def choose(logits: Rows, drafted: list[int]) -> int:
            assert len(drafted) == len(seen)
            seen.append(logits.copy())
            return int(logits.argmax())

        request = DraftRequest(token_ids, position, num_drafted, choose, min_probability=0.0)
        drafted = self.engine.draft(text.sequence, request)
        assert len(drafted) == len(seen) == min(num_drafted, 6)
        text.put(token_ids, position, is_draft=True)
        assert isinstance(self.subject, BlockSubject)
        expected = self.subject.block_logits(text, drafted)
        np.testing.assert_allclose(np.stack(seen), expected, rtol=0, atol=MAX_ROUNDING)


@pytest.mark.parametrize("has_vocabulary", [False, True])
@pytest.mark.parametrize("num_input", [0, 1])
@pytest.mark.parametrize("engine_name", DRAFTING_ENGINES)
def test_blocks_are_those_of_the_formula_from_nothing(
    tmp_path: Path, engine_name: str, num_input: int, has_vocabulary: bool
) -> None:
    make_random_model(SMALL, tmp_path / "model")
    split(tmp_path / "model", tmp_path / "bundle", num_input, 0, onnx_weights=("float32",))
    manifest = load_bundle(tmp_path / "bundle", "device").manifest
    vocabulary = VOCABULARY if has_vocabulary else None
    store_random_adapter(tmp_path / "adapter", manifest, "block", vocabulary)
    install_adapter(tmp_path / "bundle", tmp_path / "adapter")
    network = load_network(load_adapter(tmp_path / "adapter", manifest))
    assert isinstance(network, BlockAdapter)
    engine = DRAFTING_ENGINES[engine_name](tmp_path / "bundle")
    subject = BlockSubject(engine, network, has_vocabulary, tmp_path / "bundle")
    run_state_machine_as_test(
        lambda: BlockDrafts(subject),
        settings=settings(
            max_examples=at_most(12),
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
