"""Drafts of a fed adapter, after whatever came before, are those of its formula from nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adapters.install import install_adapter
from adapters.networks import FedAdapter, load_network
from adapters.storage import load_adapter
from device_runtime.engines.draft_model import RowMemory
from device_runtime.engines.engine import DraftRequest, Rows, SequenceId
from device_runtime.engines.submodel_engine import SubmodelEngine
from submodels.bundle.bundle import load_bundle
from submodels.random_models import make_random_model
from tests.support.adapter_models import SMALL
from tests.support.device_engines import DRAFTING_ENGINES
from tests.support.examples import at_most
from tests.support.fed_reference import fed_estimates
from tests.support.split_models import split
from tests.support.stored_adapters import store_random_adapter

MAX_TOKENS = 60
# Mostly a draft's length, now and then as far as a recovery goes.
backs = st.one_of(st.integers(0, 4), st.integers(0, 4), st.integers(0, MAX_TOKENS))
VOCABULARY = np.arange(3, 200, 2)
# The same numbers added in another order; logits reach 20.
MAX_ROUNDING = 2e-4


@dataclass(frozen=True, slots=True)
class Subject:
    engine: SubmodelEngine
    network: FedAdapter
    has_vocabulary: bool

    def logits(self, text: "Text", position: int, num_logits: int) -> Rows:
        """`[num_logits, V]` behind the text's last tokens, drafted from `position` on."""
        engine = self.engine
        sequence = engine.open()
        shallow = engine.input_rows(sequence, text.token_ids, 0)
        rows = fed_estimates(self.network, shallow, text.deep, text.drafted)
        for at in range(position):
            rows[at] = text.deep.get(at, rows[at])
        logits = engine.logits(sequence, rows, 0, num_logits)
        engine.release(sequence)
        if self.has_vocabulary:
            logits[:, np.setdiff1d(np.arange(logits.shape[1]), VOCABULARY)] = -np.inf
        return logits


@dataclass
class Text:
    """What a sequence holds, in words: tokens, deep rows that came, where drafts went on."""

    sequence: SequenceId
    token_ids: list[int] = field(default_factory=list)
    deep: dict[int, Rows] = field(default_factory=dict)
    drafted: set[int] = field(default_factory=set)
    num_output: int = 0
    """Positions that output layers hold, where there are any."""
    memory: RowMemory = field(default_factory=RowMemory)
    """Which tokens the engine knows to be the same as those it drafted."""

    def put(self, token_ids: Sequence[int], position: int, *, is_draft: bool = False) -> None:
        known = self.memory.recall(token_ids, position)
        first = position + len(known)
        self.cut(first)
        self.num_output = min(self.num_output, position)
        rest = token_ids[len(known) :]
        self.token_ids.extend(rest)
        if rest and (is_draft or known):
            self.memory.append(rest, np.zeros((len(rest), 1), np.float32), first)
        if is_draft:
            self.drafted |= set(range(position, position + len(token_ids)))
        else:
            self.memory.keep_from(position)

    def cut(self, num_tokens: int) -> None:
        del self.token_ids[num_tokens:]
        self.deep = {at: row for at, row in self.deep.items() if at < num_tokens}
        self.drafted = {at for at in self.drafted if at < num_tokens}

    def fork(self, sequence: SequenceId, num_tokens: int) -> "Text":
        copy = Text(sequence, [*self.token_ids], self.deep, self.drafted, num_tokens)
        copy.cut(num_tokens)
        return copy


class FedDrafts(RuleBasedStateMachine):
    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject
        self.engine = subject.engine
        self.texts: list[Text] = []
        self.rng = np.random.default_rng(0)

    @property
    def has_output(self) -> bool:
        return self.engine.num_output_layers > 0

    @initialize()
    def open(self) -> None:
        self.texts = [Text(self.engine.open())]

    def teardown(self) -> None:
        for text in self.texts:
            self.engine.release(text.sequence)

    def pick(self, which: int) -> Text:
        return self.texts[which % len(self.texts)]

    def tokens(self, text: Text, position: int, num_tokens: int, *, is_same: bool) -> list[int]:
        """New ones, or as far as may be those that are there."""
        fresh = self.rng.integers(0, self.engine.vocab_size, num_tokens).tolist()
        held = text.token_ids[position : position + num_tokens] if is_same else []
        return [*held, *fresh[len(held) :]]

    @rule(
        which=st.integers(0, 3), back=st.integers(0, 4), num=st.integers(1, 7), same=st.booleans()
    )
    def compute(self, which: int, back: int, num: int, same: bool) -> None:
        text = self.pick(which)
        position = max(len(text.token_ids) - back, 0)
        if position + num > MAX_TOKENS:
            return
        token_ids = self.tokens(text, position, num, is_same=same)
        self.engine.input_rows(text.sequence, token_ids, position)
        text.put(token_ids, position)

    @precondition(lambda self: any(text.token_ids for text in self.texts))
    @rule(which=st.integers(0, 3), start=st.integers(0, 12), num=st.integers(1, 8))
    def learn(self, which: int, start: int, num: int) -> None:
        """A reply: rows of a few positions near the end, or with output layers of the next ones."""
        text = self.pick(which)
        end = len(text.token_ids)
        position = text.num_output if self.has_output else max(end - start, 0)
        num = min(num, end - position)
        if num <= 0:
            return
        deep = self.rng.standard_normal((num, self.engine.hidden_size), np.float32)
        self.engine.logits(text.sequence, deep, position, 0)
        text.deep.update(enumerate(deep, position))
        text.num_output = position + num

    @rule(
        which=st.integers(0, 3),
        back=backs,
        num=st.integers(1, 3),
        same=st.booleans(),
        num_drafted=st.integers(1, 5),
    )
    def draft(self, which: int, back: int, num: int, same: bool, num_drafted: int) -> None:
        text = self.pick(which)
        position = max(len(text.token_ids) - back, 0)
        if self.has_output:
            position = min(position, text.num_output)
        if position + num + num_drafted > MAX_TOKENS:
            return
        token_ids = self.tokens(text, position, num, is_same=same)
        seen: list[Rows] = []

        def choose(logits: Rows, _: Sequence[int]) -> int:
            seen.append(logits.copy())
            return int(logits.argmax())

        request = DraftRequest(token_ids, position, num_drafted, choose, min_probability=0.0)
        drafted = self.engine.draft(text.sequence, request)
        assert len(drafted) == len(seen) == num_drafted
        text.put(token_ids, position, is_draft=True)
        for token in drafted[:-1]:
            text.put([token], len(text.token_ids), is_draft=True)
        expected = self.subject.logits(text, position, num_drafted)
        np.testing.assert_allclose(np.stack(seen), expected, rtol=0, atol=MAX_ROUNDING)

    @rule(which=st.integers(0, 3), num=st.integers(1, 9))
    def prepare(self, which: int, num: int) -> None:
        self.engine.prepare_draft(self.pick(which).sequence, num)

    @precondition(lambda self: len(self.texts) < 4)
    @rule(which=st.integers(0, 3), share=st.floats(0, 1))
    def fork(self, which: int, share: float) -> None:
        text = self.pick(which)
        most = text.num_output if self.has_output else len(text.token_ids)
        num_tokens = round(share * most)
        sequence = self.engine.fork(text.sequence, num_tokens)
        self.texts.append(text.fork(sequence, num_tokens))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    make_random_model(SMALL, folder)
    return folder


@pytest.mark.parametrize("has_vocabulary", [False, True])
@pytest.mark.parametrize(("num_input", "num_output"), [(1, 0), (0, 1)])
@pytest.mark.parametrize("engine_name", DRAFTING_ENGINES)
def test_drafts_are_those_of_the_formula_from_nothing(
    model: Path,
    tmp_path: Path,
    engine_name: str,
    num_input: int,
    num_output: int,
    has_vocabulary: bool,
) -> None:
    split(model, tmp_path / "bundle", num_input, num_output, onnx_weights=("float32",))
    manifest = load_bundle(tmp_path / "bundle", "device").manifest
    vocabulary = VOCABULARY if has_vocabulary else None
    store_random_adapter(tmp_path / "adapter", manifest, "fed", vocabulary)
    install_adapter(tmp_path / "bundle", tmp_path / "adapter")
    network = load_network(load_adapter(tmp_path / "adapter", manifest))
    assert isinstance(network, FedAdapter)
    engine = DRAFTING_ENGINES[engine_name](tmp_path / "bundle")
    subject = Subject(engine, network, has_vocabulary)
    run_state_machine_as_test(
        lambda: FedDrafts(subject),
        settings=settings(
            max_examples=at_most(12),
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
