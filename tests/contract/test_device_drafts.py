"""What every device engine promises about drafting, in the words of `DeviceEngine`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.install import install_adapter
from adapters.networks import AdapterNetwork, BlockAdapter, FedAdapter, load_network
from adapters.storage import Kind, load_adapter
from device_runtime.engines.engine import DraftRequest, Rows, SequenceId
from device_runtime.engines.submodel_engine import SubmodelEngine
from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed, load_embedding
from submodels.bundle.layers import Head, load_head
from submodels.random_models import RandomModel, make_random_model
from tests.support.block_reference import block_rows
from tests.support.device_engines import DRAFTING_ENGINES, random_rows
from tests.support.fed_reference import fed_estimates
from tests.support.split_models import random_tokens, split
from tests.support.stored_adapters import store_random_adapter

NUM_TOKENS = 40
START = 20
CONTEXT = 64
# The same numbers added in another order; logits reach 20.
MAX_ROUNDING = 1e-4
SUBJECTS: list[tuple[str, Kind, int, int]] = [
    (engine, kind, m, k)
    for engine in DRAFTING_ENGINES
    for kind, m, k in (
        ("layer", 1, 0),
        ("layer", 0, 1),
        ("layer", 2, 2),
        ("attention", 1, 1),
        ("attention", 2, 0),
        ("fed", 1, 0),
        ("fed", 0, 1),
        ("fed", 2, 2),
        ("block", 0, 0),
        ("block", 2, 0),
    )
]


@dataclass
class Greedy:
    """Chooses the likeliest token and remembers the logits it chose from."""

    logits: list[Rows] = field(default_factory=list)

    def __call__(self, logits: Rows, draft: Sequence[int]) -> int:
        assert len(draft) == len(self.logits)
        self.logits.append(logits.copy())
        return int(logits.argmax())


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine that drafts, its adapter in torch, tokens, and rows as a cloud might return them.

    `head` and `table` are the model's, for adapters that draft blocks.

    Token `i` of the text goes with deep row `i`, whatever is drafted in its place.
    """

    engine: SubmodelEngine
    network: AdapterNetwork
    num_output: int
    text: tuple[int, ...]
    deep: Rows
    head: Head
    table: torch.Tensor

    def replay(self, num_tokens: int) -> SequenceId:
        """A new sequence that holds the first tokens and their deep rows."""
        sequence = self.engine.open()
        self.extend(sequence, self.text[:num_tokens], 0)
        return sequence

    def extend(self, sequence: SequenceId, tokens: Sequence[int], position: int) -> None:
        """Tokens and their deep rows, as a verification brings them."""
        self.engine.input_rows(sequence, tokens, position)
        deep = self.deep[position : position + len(tokens)]
        self.engine.logits(sequence, deep, position, 0)

    def draft(
        self, sequence: SequenceId, position: int, num_tokens: int = 4
    ) -> tuple[tuple[int, ...], Rows]:
        """A draft behind the text's token at `position`, and the logits it was chosen from."""
        choose = Greedy()
        request = DraftRequest((self.text[position],), position, num_tokens, choose)
        drafted = self.engine.draft(sequence, request)
        return drafted, np.array(choose.logits)

    def expected_logits(self, tokens: Sequence[int], position: int) -> Rows:
        """From scratch: deep rows before `position`, estimates from there on."""
        shallow = self.engine.input_rows(self.engine.open(), tokens, 0)
        if isinstance(self.network, BlockAdapter):
            known = dict(enumerate(self.deep[:position]))
            rows = block_rows(self.network, self.head, self.table, shallow[: position + 1], known)
            return rows(tokens[position + 1 :])
        if isinstance(self.network, FedAdapter):
            deep = dict(enumerate(self.deep[:position]))
            drafted = range(position, len(tokens))
            estimates = fed_estimates(self.network, shallow, deep, drafted)
        else:
            with torch.inference_mode():
                estimates = self.network(torch.from_numpy(shallow)[None])[0].numpy()
        sequence = self.engine.open()
        self.engine.input_rows(sequence, tokens, 0)
        mixed = np.concatenate((self.deep[:position], estimates[position:]))
        return self.engine.logits(sequence, mixed, 0, len(tokens) - position)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    make_random_model(RandomModel("llama", max_context_tokens=CONTEXT), folder)
    return folder


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda p: f"{p[0]}, {p[1]}, {p[2]}+{p[3]}")
def subject(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Subject:
    engine_name, kind, num_input, num_output = request.param
    folder = tmp_path_factory.mktemp("split")
    split(model, folder / "bundle", num_input, num_output, onnx_weights=("float32",))
    manifest = load_bundle(folder / "bundle", "device").manifest
    store_random_adapter(folder / "adapter", manifest, kind)
    install_adapter(folder / "bundle", folder / "adapter")
    engine = DRAFTING_ENGINES[engine_name](folder / "bundle")
    network = load_network(load_adapter(folder / "adapter", manifest))
    text = random_tokens(NUM_TOKENS, engine.vocab_size)
    deep = random_rows(NUM_TOKENS, engine.hidden_size)
    bundle = load_bundle(folder / "bundle", "device")
    head, table = load_head(bundle, Placed()), load_embedding(bundle, Placed())
    return Subject(engine, network, num_output, text, deep, head, table)


def check(came: tuple[tuple[int, ...], Rows], expected: tuple[tuple[int, ...], Rows]) -> None:
    assert came[0] == expected[0]
    np.testing.assert_allclose(came[1], expected[1], rtol=0, atol=MAX_ROUNDING)


def test_a_draft_is_chosen_by_input_submodel_adapter_and_output_submodel(
    subject: Subject,
) -> None:
    drafted, logits = subject.draft(subject.replay(START), START, 4)
    tokens = [*subject.text[: START + 1], *drafted[:-1]]
    expected = subject.expected_logits(tokens, START)
    assert drafted == tuple(expected.argmax(-1))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=MAX_ROUNDING)


@pytest.mark.parametrize(
    ("num_drafted", "num_accepted"), [(1, 0), (1, 1), (4, 0), (4, 1), (4, 2), (4, 4)]
)
def test_the_adapter_is_right_after_every_outcome_of_a_verification(
    subject: Subject, num_drafted: int, num_accepted: int
) -> None:
    """All accepted: its cache lags by one. Fewer: it is truncated."""
    drafted = subject.text[START + 1 : START + 1 + num_accepted]
    drafted += tuple((t + 1) % 60 for t in subject.text[START + 1 + num_accepted :])
    scripted = drafted[:num_drafted]
    sequence = subject.replay(START)
    request = DraftRequest(
        (subject.text[START],), START, num_drafted, lambda _, done: scripted[len(done)]
    )
    assert subject.engine.draft(sequence, request) == scripted
    subject.extend(sequence, (subject.text[START], *scripted), START)
    position = START + num_accepted + 1
    check(subject.draft(sequence, position), subject.draft(subject.replay(position), position))
    last = NUM_TOKENS - 1
    # A fed adapter that knows the deep row of the token it drafts behind goes on from that.
    seen = last if isinstance(subject.network, FedAdapter) else NUM_TOKENS
    subject.extend(sequence, subject.text[position:seen], position)
    check(subject.draft(sequence, last), subject.draft(subject.replay(last), last))


def test_the_verification_computes_only_rows_that_drafting_has_not(subject: Subject) -> None:
    engine = subject.engine
    plain = engine._submodels
    computed: list[int] = []

    def embed(ids: np.ndarray) -> Rows:
        computed.append(len(ids))
        return plain.embed(ids)

    sequence, fresh = subject.replay(START), subject.replay(START)
    engine._submodels = replace(plain, embed=embed)
    try:
        drafted, _ = subject.draft(sequence, START, 4)
        # A block is drafted without its tokens' rows, which come in one run.
        is_block = isinstance(subject.network, BlockAdapter)
        assert computed == ([1] if is_block else [1, 1, 1, 1])
        tokens = (subject.text[START], *drafted)
        rows = engine.input_rows(sequence, tokens, START)
        assert computed == ([1, 4] if is_block else [1, 1, 1, 1, 1])
    finally:
        engine._submodels = plain
    expected = engine.input_rows(fresh, tokens, START)
    np.testing.assert_allclose(rows, expected, rtol=0, atol=MAX_ROUNDING)


def test_drafting_changes_nothing_the_target_says(subject: Subject) -> None:
    drafted, plain = subject.replay(START), subject.replay(START)
    subject.draft(drafted, START, 6)
    rest, deep = subject.text[START:], subject.deep[START:]
    came, expected = (
        (
            subject.engine.input_rows(sequence, rest, START),
            subject.engine.logits(sequence, deep, START, len(deep)),
        )
        for sequence in (drafted, plain)
    )
    for one, other in zip(came, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=MAX_ROUNDING)


def test_a_fork_drafts_as_its_source_would_have(subject: Subject) -> None:
    source = subject.replay(START + 5)
    subject.draft(source, START + 5)
    fork = subject.engine.fork(source, START)
    check(subject.draft(fork, START), subject.draft(subject.replay(START), START))
    late = subject.draft(source, START + 5)
    check(late, subject.draft(subject.replay(START + 5), START + 5))


def test_preparing_in_pieces_changes_no_draft(subject: Subject) -> None:
    sequence = subject.replay(START)
    left = [subject.engine.prepare_draft(sequence, 8) for _ in range(4)]
    assert left == [True, True, False, False]
    check(subject.draft(sequence, START), subject.draft(subject.replay(START), START))


def test_a_draft_goes_on_behind_a_given_beginning(subject: Subject) -> None:
    """The beginning is computed in one run, or not at all where drafting has already."""
    if isinstance(subject.network, BlockAdapter):
        pytest.skip("a block behind a beginning is another block")
    if subject.num_output:
        pytest.skip("estimates of a beginning differ from the estimates made one by one")
    sequence = subject.replay(START)
    drafted, _ = subject.draft(sequence, START, 4)
    for other in (sequence, subject.replay(START)):
        begun = (subject.text[START], *drafted[:2])
        request = DraftRequest(begun, START, 2, lambda logits, _: int(logits.argmax()))
        assert subject.engine.draft(other, request) == drafted[2:]


def test_a_block_goes_on_behind_a_given_beginning_of_which_no_deep_row_is_known(
    subject: Subject,
) -> None:
    if not isinstance(subject.network, BlockAdapter):
        pytest.skip("another adapter goes on by its own estimates")
    begun, known = subject.text[START : START + 3], dict(enumerate(subject.deep[:START]))
    drafted = subject.replay(START)
    subject.draft(drafted, START, 4)
    for sequence in (subject.replay(START), drafted):
        choose = Greedy()
        request = DraftRequest(begun, START, 4, choose)
        came = subject.engine.draft(sequence, request)
        text = subject.text[: START + 3]
        shallow = subject.engine.input_rows(subject.engine.open(), text, 0)
        rows = block_rows(subject.network, subject.head, subject.table, shallow, known)
        check((came, np.array(choose.logits)), (came, rows(came[:-1])))


def test_a_draft_ends_where_it_should(subject: Subject) -> None:
    engine, sequence = subject.engine, subject.replay(START)
    drafted, _ = subject.draft(sequence, START, 6)
    plain = DraftRequest((subject.text[START],), START, 6, Greedy())
    stop = frozenset({drafted[1]})
    stopped = engine.draft(sequence, replace(plain, choose=Greedy(), stop_token_ids=stop))
    assert stopped == drafted[: drafted.index(drafted[1]) + 1]

    def two(logits: Rows, done: Sequence[int]) -> int | None:
        return int(logits.argmax()) if len(done) < 2 else None

    assert engine.draft(sequence, replace(plain, choose=two)) == drafted[:2]
    model = engine._submodels.draft_model
    assert model is not None
    sure = replace(model, limits=replace(model.limits, stop_threshold=1.1))
    engine._submodels = replace(engine._submodels, draft_model=sure)
    assert engine.draft(sequence, replace(plain, choose=Greedy())) == ()
    engine._submodels = replace(engine._submodels, draft_model=model)


def test_a_draft_stays_within_the_context(subject: Subject) -> None:
    sequence = subject.engine.open()
    tokens = random_tokens(CONTEXT, subject.engine.vocab_size, seed=4)
    deep = random_rows(CONTEXT, subject.engine.hidden_size, seed=4)
    subject.engine.input_rows(sequence, tokens[:-2], 0)
    subject.engine.logits(sequence, deep[:-2], 0, 0)
    request = DraftRequest(tokens[-2:-1], CONTEXT - 2, 5, Greedy())
    assert len(subject.engine.draft(sequence, request)) == 2


def test_an_engine_without_an_adapter_says_so(subject: Subject) -> None:
    plain = subject.engine._submodels
    engine = SubmodelEngine(replace(plain, draft_model=None), subject.engine.limits)
    assert engine.draft_limits is None
    with pytest.raises(ValueError, match="expected an engine with an adapter"):
        engine.draft(engine.open(), DraftRequest((1,), 0, 2, Greedy()))
