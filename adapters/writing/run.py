"""All conversations of a training, written to its folder; interrupted work goes on there."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import torch

from adapters.data.conversations import (
    CONVERSATIONS_FILE,
    Conversation,
    append_conversations,
    read_conversations,
    whole_bytes,
)
from adapters.data.corpus import CorpusError
from adapters.data.faster_format import faster_dtype
from adapters.data.whole_model import WholeModel, load_whole_model
from adapters.options import Progress, StageProgress
from adapters.whole_files import write_json
from adapters.writing.decoder import BatchDecoder
from adapters.writing.draft import Phase, Writing
from adapters.writing.form import ChatForm, WritingOptions
from adapters.writing.group import choose_by_chance, write_group
from submodels.bundle.bundle import load_bundle
from submodels.bundle.layer_weights import Placed

STATE_FILE = "conversations.json"
# What is lost at most when a computer fails, and what is waited for at a group's end: a few slots.
_GROUPS_OF_SLOTS = 4
_MAX_CACHE_BYTES = 2 << 30
_LEAST_YIELD = 0.02
"""Of what is begun, so much has to be of use,"""
_NUM_TRIED = 16
"""as soon as so many were begun."""


class WritingState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the writing is. `key` names everything that it depends on but its length."""

    key: str
    dtype: Literal["", "float32", "bfloat16"] = ""
    """The number format that it was begun in."""
    num_bytes: int = 0
    """Of the file; what is behind them was not finished."""
    next_index: int = 0
    """Of the conversations that were begun, in order."""
    num_done: int = 0
    num_duplicates: int = 0
    num_unfit: int = 0
    unanswered: list[str] = []
    """Digests of questions that are not in the file, and are not to be asked again."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Which model writes, in which form, and what it is asked; `prompts` None: it asks itself."""

    device_bundle: Path
    cloud_bundle: Path
    form: ChatForm
    prompts: Sequence[Sequence[int]] | None = None
    device: str = "cpu"
    number_format: Literal["auto", "float32", "bfloat16"] = "auto"
    """What it computes in; auto: whichever is faster here, as long as it goes on in one folder."""


@dataclass(frozen=True, slots=True)
class Written:
    """What is there now, and what was dropped on the way."""

    conversations: list[Conversation]
    num_duplicates: int
    num_unfit: int


def write_conversations(
    sources: Sources,
    options: WritingOptions,
    folder: Path,
    progress: Progress,
    clock: Callable[[], float],
) -> Written:
    """Conversations in `folder`, those that an earlier run left there and what is missing of them.

    On one machine, with one number of threads, what is written does not depend on whether and
    where it was interrupted. A file that came from elsewhere is taken as it is and gone on with.
    `clock` gives the processor's seconds; a short test finds the faster number format.

    Raises:
        BundleError: the bundles cannot be used together.
        CorpusError: the folder's conversations are of another model or other options, or
            conversations of this length exceed the model's context.
    """
    manifest = load_bundle(sources.device_bundle, "device").manifest
    path = folder / CONVERSATIONS_FILE
    state = _state(folder, _key(sources, options, manifest.fingerprint))
    there = _kept(path, state, manifest.shape.vocab_size)
    written = Written(there, state.num_duplicates, state.num_unfit)
    if len(there) >= _num_wanted(sources, options) or _is_used_up(sources, state):
        return written
    if not state.dtype:
        dtype: str = sources.number_format
        if dtype == "auto":
            dtype = str(faster_dtype(sources.device, clock)).removeprefix("torch.")
        state = msgspec.structs.replace(state, dtype=dtype)
        # Now, so that a first group that is cut short is not taken for a file from elsewhere.
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / STATE_FILE, state, indent=2)
    placed = Placed(getattr(torch, state.dtype), sources.device)
    model = load_whole_model(sources.device_bundle, sources.cloud_bundle, placed)
    return _Run(model, sources, options, folder, progress).go_on(state, written)


class _Run:
    """The groups that are missing, one after the other."""

    def __init__(
        self,
        model: WholeModel,
        sources: Sources,
        options: WritingOptions,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._sources = sources
        self._options = options
        self._folder = folder
        self._progress = progress
        self._num_wanted = _num_wanted(sources, options)
        self._max_tokens = _max_tokens(sources, options, model.manifest.shape.max_context_tokens)
        self._model = model
        self._num_slots = min(options.num_slots, _slots_in(model, self._max_tokens))
        self._seen: set[str] = set()
        """All questions, so that none is asked twice."""
        self._kept: set[str] = set()
        """Those that are in the file."""

    def go_on(self, state: WritingState, written: Written) -> Written:
        """Write group by group until there are enough, or no more questions."""
        self._kept = {_digest(q) for one in written.conversations for q in self._questions(one)}
        self._seen = self._kept | {*state.unanswered}
        there = list(written.conversations)
        while len(there) < self._num_wanted and not _is_used_up(self._sources, state):
            indices = self._next_indices(state, self._num_wanted - len(there))
            group = self._group(indices)
            self._write(group, len(there))
            added = [one.conversation() for one in group if one.phase is Phase.DONE]
            state = self._keep(state, indices.stop, group, added)
            there += added
            if self._sources.prompts is None:
                _check_yield(state)
        return Written(there, state.num_duplicates, state.num_unfit)

    def _next_indices(self, state: WritingState, num_missing: int) -> range:
        """Of a group: a few more than are missing, since some will be of no use."""
        num_begun = min(_GROUPS_OF_SLOTS * self._num_slots, num_missing + num_missing // 4 + 4)
        return range(state.next_index, state.next_index + num_begun)

    def _group(self, indices: range) -> list[Writing]:
        prompts = self._sources.prompts
        form, options = self._sources.form, self._options
        if prompts is None:
            return [Writing(index, form, options, self._is_new) for index in indices]
        asked = [(i, prompts[i]) for i in indices if i < len(prompts) and self._is_new(prompts[i])]
        longest = self._max_tokens - options.max_answer_tokens
        return [
            Writing(index, form, options, self._is_new, prompt)
            for index, prompt in asked
            if 0 < len(prompt) <= longest
        ]

    def _write(self, group: Sequence[Writing], num_there: int) -> None:
        # A new one each time: what a group writes must not depend on what the caches held.
        decoder = BatchDecoder(self._model, self._num_slots, self._max_tokens)
        num_done = num_there

        def finished(one: Writing) -> None:
            nonlocal num_done
            num_done += one.phase is Phase.DONE
            done = min(num_done, self._num_wanted)
            self._progress(StageProgress("writing", done, self._num_wanted))

        # Side by side long ones are no burden to short ones, and none is left alone at the end.
        longest_first = sorted(group, key=lambda one: -one.expected_tokens)
        opening = self._sources.form.opening
        write_group(decoder, opening, longest_first, choose_by_chance, finished)

    def _keep(
        self,
        state: WritingState,
        next_index: int,
        group: Sequence[Writing],
        added: Sequence[Conversation],
    ) -> WritingState:
        """Put a group on disk: the conversations, then how far the file is good."""
        path = self._folder / CONVERSATIONS_FILE
        self._kept |= {_digest(q) for one in added for q in self._questions(one)}
        phases = [one.phase for one in group]
        state = msgspec.structs.replace(
            state,
            num_bytes=append_conversations(path, state.num_bytes, added),
            next_index=next_index,
            num_done=state.num_done + len(added),
            num_duplicates=state.num_duplicates + phases.count(Phase.DUPLICATE),
            num_unfit=state.num_unfit + phases.count(Phase.UNFIT),
            unanswered=sorted(self._seen - self._kept),
        )
        write_json(self._folder / STATE_FILE, state, indent=2)
        return state

    def _questions(self, one: Conversation) -> Iterator[Sequence[int]]:
        """The user's words of each turn, or the whole of a given prompt."""
        if self._sources.prompts is not None:
            yield one.token_ids[: one.num_prompt_tokens]
            return
        form = self._sources.form
        begin = len(form.opening)
        for start, end in one.ranges:
            yield one.token_ids[begin : start - len(form.closing)]
            # An answer ends with the first token of what is between.
            begin = end + len(form.between[1:])

    def _is_new(self, token_ids: Sequence[int]) -> bool:
        digest = _digest(token_ids)
        is_new = digest not in self._seen
        self._seen.add(digest)
        return is_new


def _digest(token_ids: Sequence[int]) -> str:
    return hashlib.sha256(repr(list(token_ids)).encode()).hexdigest()[:16]


def _check_yield(state: WritingState) -> None:
    """Give a model up that asks nothing of use, rather than write for ever.

    Raises:
        CorpusError: nearly everything is dropped.
    """
    is_early = state.next_index < _NUM_TRIED
    if is_early or state.num_done >= _LEAST_YIELD * state.next_index:
        return
    raise CorpusError(
        f"of {state.next_index:,} conversations that the model wrote, {state.num_unfit:,} were too "
        f"short, too long or without an answer, and {state.num_duplicates:,} there already; give "
        "--prompts or --text"
    )


def _state(folder: Path, key: str) -> WritingState:
    """How far an earlier run was; a file without such a state came from elsewhere, and is kept."""
    try:
        state = msgspec.json.decode((folder / STATE_FILE).read_bytes(), type=WritingState)
    except FileNotFoundError:
        return WritingState(key=key, num_bytes=whole_bytes(folder / CONVERSATIONS_FILE))
    except (OSError, msgspec.DecodeError) as error:
        raise CorpusError(f"cannot read {folder / STATE_FILE}: {error}") from error
    if state.key != key:
        raise CorpusError(
            f"{folder} holds conversations of another model, other prompts or other options; "
            f"name another folder, or delete {CONVERSATIONS_FILE} and {STATE_FILE} there"
        )
    return state


def _kept(path: Path, state: WritingState, vocab_size: int) -> list[Conversation]:
    """The conversations that were finished; what is behind them in the file is dropped."""
    num_bytes = path.stat().st_size if path.exists() else 0
    if num_bytes < state.num_bytes:
        raise CorpusError(
            f"{path}: expected {state.num_bytes:,} bytes or more, as {STATE_FILE} beside it says, "
            f"got {num_bytes:,}; delete both to begin anew"
        )
    if num_bytes > state.num_bytes:
        append_conversations(path, state.num_bytes, ())
    return read_conversations(path, vocab_size) if path.exists() else []


def _key(sources: Sources, options: WritingOptions, fingerprint: str) -> str:
    form = sources.form
    ends = (sorted(form.end_token_ids), sorted(form.special_token_ids), form.between)
    prompts = None if sources.prompts is None else [list(prompt) for prompt in sources.prompts]
    any_length = replace(options, num_conversations=1)
    named = (fingerprint, form.opening, form.closing, ends, prompts, any_length)
    return hashlib.sha256(repr(named).encode()).hexdigest()


def _num_wanted(sources: Sources, options: WritingOptions) -> int:
    if sources.prompts is None:
        return options.num_conversations
    return min(options.num_conversations, len(sources.prompts))


def _is_used_up(sources: Sources, state: WritingState) -> bool:
    """Whether there are no more questions."""
    return sources.prompts is not None and state.next_index >= len(sources.prompts)


def _max_tokens(sources: Sources, options: WritingOptions, context_tokens: int) -> int:
    """Of one conversation at most."""
    if sources.prompts is not None:
        longest = max((len(prompt) for prompt in sources.prompts), default=1)
        return min(context_tokens, longest + options.max_answer_tokens)
    form = sources.form
    longest = len(form.opening) + options.max_turn_tokens + len(form.closing)
    if longest + options.max_answer_tokens > context_tokens:
        raise CorpusError(
            f"conversations of up to {longest + options.max_answer_tokens} tokens exceed the "
            f"model's context of {context_tokens}"
        )
    if not options.long_every or not form.between:
        return longest + options.max_answer_tokens
    return min(context_tokens, max(longest + options.max_answer_tokens, options.long_tokens))


def _slots_in(model: WholeModel, max_tokens: int) -> int:
    """How many caches fit into the memory that is set aside for them."""
    shape = model.manifest.shape
    per_token = shape.num_cached(range(shape.num_layers))
    slot_bytes = per_token * max_tokens * model.embedding.element_size()
    return max(1, _MAX_CACHE_BYTES // slot_bytes)
