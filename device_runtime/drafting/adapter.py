"""Drafting with the engine's adapter, by the target's own rule of choice."""

from collections.abc import Callable, Sequence

from device_runtime.drafting.ahead import AheadSwitch
from device_runtime.drafting.building import Drafted, Steps
from device_runtime.engines.engine import DeviceEngine, DraftRequest, Rows, SequenceId, Workers
from device_runtime.sampling.sampler import LogitsError, Sampler
from device_runtime.session.actions import ComputeAndSend
from process.world import Clock

_NUM_BRANCHES = 2

_HOWEVER_UNSURE = 1e-9
"""Below any token's probability: how far a draft goes is decided by its builder."""

# About as long as a draft: a reply that comes meanwhile hardly waits.
_ROWS_PER_PREPARATION = 32


class AdapterDrafter:
    """Drafts of one generation.

    A drafted token is what the sampler would choose at its position from the draft model's logits:
    the likeliest when greedy, else with the position's noise, which the target will use too.

    While the cloud computes, `work` brings the adapter up to what was sent. While a draft is
    verified, and as long as that is seen to pay, it drafts on behind it, a step at a time, from the
    tokens that would be chosen first at its end. What matches the decision begins the next draft.
    """

    def __init__(
        self, sampler: Sampler, stop_token_ids: frozenset[int], switch: AheadSwitch, clock: Clock
    ) -> None:
        self._sampler = sampler
        self._stop_token_ids = stop_token_ids
        self._switch = switch
        self._clock = clock
        self._is_ahead_on = False
        self._decided_s: float | None = None
        self._num_text_tokens = 0
        self._sent: ComputeAndSend | None = None
        self._is_behind = False
        self._ahead: _Ahead | None = None
        self._begun: tuple[Drafted, ...] = ()
        self.num_ahead_tokens = 0
        """Tokens drafted while a verification was under way."""

    def begin(self, prompt_ids: Sequence[int]) -> None:
        """Nothing to remember: the engine has the prompt's rows."""

    def decided(self, token_ids: Sequence[int], deep: Rows) -> None:
        ahead, self._ahead = self._ahead, None
        self._begun = ()
        if ahead is not None and len(token_ids) > len(ahead.draft):
            # The whole draft was accepted, and each branch begins with a guess at what follows it.
            tails = (branch.tail for branch in ahead.branches if branch.first == token_ids[-1])
            self._begun = tuple(next(tails, ()))

    def steps_behind(
        self, sequence: SequenceId, text: Sequence[int], num_undecided: int
    ) -> "tuple[AdapterSteps, Sequence[Drafted]]":
        """Its steps for one draft, and those that were taken while the last one was verified."""
        steps = AdapterSteps(self._sampler, sequence, text, num_undecided)
        if num_undecided:
            return steps, ()
        self._learn(len(text))
        begun, self._begun = self._begun, ()
        return steps, begun

    async def propose(
        self,
        workers: Workers,
        sequence: SequenceId,
        text: Sequence[int],
        num_tokens: int,
        num_undecided: int = 0,
    ) -> tuple[int, ...]:
        limits = workers.engine.draft_limits
        assert limits is not None, "chosen only for engines with an adapter"
        num_tokens = min(num_tokens, limits.max_tokens)
        undecided = tuple(text[len(text) - num_undecided :])
        begun: tuple[int, ...] = ()
        if not undecided:
            self._learn(len(text))
            begun, self._begun = tuple(each.token_id for each in self._begun[:num_tokens]), ()
            if len(begun) == num_tokens or (begun and begun[-1] in self._stop_token_ids):
                return begun
        before = (*undecided, *begun)
        request = DraftRequest(
            token_ids=(text[-1], *begun),
            position=len(text) - 1,
            num_tokens=num_tokens - len(begun),
            choose=lambda logits, drafted: self._choose(logits, (*before, *drafted)),
            stop_token_ids=self._stop_token_ids,
        )
        return begun + await workers.run(lambda engine: engine.draft(sequence, request))

    async def work(self, workers: Workers, sequence: SequenceId, sent: ComputeAndSend) -> bool:
        if sent is not self._sent:
            self._sent, self._is_behind, self._ahead = sent, True, None
        if self._is_behind:
            self._is_behind = await workers.run(
                lambda engine: engine.prepare_draft(sequence, _ROWS_PER_PREPARATION)
            )
            return self._is_behind or (sent.is_verify and self._is_ahead_on)
        if not (sent.is_verify and self._is_ahead_on):
            return False
        if self._ahead is None:
            self._ahead = _Ahead(sent.token_ids[-1], sent.token_ids[1:], sent.position)
        ahead = self._ahead
        return await workers.run(lambda engine: self._draft_ahead(engine, sequence, ahead))

    def _learn(self, num_text_tokens: int) -> None:
        """Tell the switch what the round brought, and ask it about the next."""
        now = self._clock()
        if self._decided_s is not None:
            num_new = num_text_tokens - self._num_text_tokens
            self._switch.on_round(self._is_ahead_on, num_new, now - self._decided_s)
        self._decided_s, self._num_text_tokens = now, num_text_tokens
        self._is_ahead_on = self._switch.is_on()

    def _draft_ahead(self, engine: DeviceEngine, sequence: SequenceId, ahead: "_Ahead") -> bool:
        """Draft one more token behind the draft under way; whether there may be more to do."""
        if engine.draft_limits is None or engine.num_output_layers > 0:
            return False
        if ahead.candidates is None:
            ahead.candidates = self._candidates(engine, sequence, ahead)
            return bool(ahead.candidates)
        if ahead.num_done == len(ahead.candidates):
            return False
        if len(ahead.branches) == ahead.num_done:
            ahead.branches.append(_Branch(ahead.candidates[ahead.num_done]))
        branch = ahead.branches[-1]
        drafted = self._next_token(engine, sequence, ahead, branch)
        branch.tail.extend(drafted)
        self.num_ahead_tokens += len(drafted)
        if not drafted or len(branch.tail) >= engine.draft_limits.max_tokens:
            ahead.num_done += 1
        return ahead.num_done < len(ahead.candidates)

    def _candidates(
        self, engine: DeviceEngine, sequence: SequenceId, ahead: "_Ahead"
    ) -> tuple[int, ...]:
        """The tokens that would be chosen first at the draft's end, however sure the model is."""
        found: list[int] = []

        def look(logits: Rows, _: Sequence[int]) -> None:
            try:
                found.extend(self._sampler.choices(logits, _NUM_BRANCHES, ahead.draft))
            except LogitsError:
                found.clear()

        end = ahead.position + len(ahead.draft)
        if ahead.last_token not in self._stop_token_ids:
            request = DraftRequest((ahead.last_token,), end, 1, look, min_probability=0.0)
            engine.draft(sequence, request)
        return tuple(token for token in found if token not in self._stop_token_ids)

    def _next_token(
        self, engine: DeviceEngine, sequence: SequenceId, ahead: "_Ahead", branch: "_Branch"
    ) -> list[Drafted]:
        """The token behind a branch, if the model is sure enough of one."""
        token_ids = (branch.first, *(each.token_id for each in branch.tail))
        if token_ids[-1] in self._stop_token_ids:
            return []
        before = (*ahead.draft, *token_ids)
        found: list[Drafted] = []

        def choose(logits: Rows, _: Sequence[int]) -> int | None:
            drafted = _clear_choice(self._sampler, logits, before)
            if drafted is None:
                return None
            found.append(drafted)
            return drafted.token_id

        request = DraftRequest(token_ids[-1:], ahead.position + len(before), 1, choose)
        engine.draft(sequence, request)
        return found

    def _choose(self, logits: Rows, draft: Sequence[int]) -> int | None:
        """The sampler's choice; none where it finds nothing to choose, as a draft may leave out."""
        try:
            return self._sampler.choose(logits, draft)
        except LogitsError:
            return None


class AdapterSteps(Steps):
    """The adapter's steps for one draft behind a text, of which the last tokens are undecided."""

    def __init__(
        self, sampler: Sampler, sequence: SequenceId, text: Sequence[int], num_undecided: int
    ) -> None:
        self._sampler = sampler
        self._sequence = sequence
        self._last_token = text[-1]
        self._position = len(text) - 1
        self._undecided = tuple(text[len(text) - num_undecided :])
        self._num_seen = 0

    def step(
        self, engine: DeviceEngine, draft: Sequence[int], take: Callable[[Drafted], bool]
    ) -> None:
        before = (*self._undecided, *draft)
        token_ids = (self._last_token, *draft)
        # Output layers forget the estimates of a draft, so theirs are made again.
        first = 0 if engine.num_output_layers > 0 else self._num_seen

        def choose(logits: Rows, drafted: Sequence[int]) -> int | None:
            chosen = _clear_choice(self._sampler, logits, (*before, *drafted))
            return chosen.token_id if chosen is not None and take(chosen) else None

        limits = engine.draft_limits
        assert limits is not None, "chosen only for engines with an adapter"
        request = DraftRequest(
            token_ids[first:],
            self._position + first,
            limits.pass_tokens,
            choose,
            min_probability=_HOWEVER_UNSURE,
        )
        self._num_seen = len(token_ids)
        engine.draft(self._sequence, request)


def _clear_choice(sampler: Sampler, logits: Rows, draft: Sequence[int]) -> Drafted | None:
    """The sampler's choice; none where it finds nothing to choose, as a draft may leave out."""
    try:
        return Drafted(*sampler.clear_choice(logits, draft))
    except LogitsError:
        return None


class _Ahead:
    """Drafting on behind one draft, which begins after `position` and may be empty.

    `last_token` is the draft's, or the text's before an empty one.

    Branches are made one after the other, each in place of the one before: of the last one the
    engine still knows the rows, those of another are computed again in one run.
    """

    def __init__(self, last_token: int, draft: tuple[int, ...], position: int) -> None:
        self.last_token = last_token
        self.draft = draft
        self.position = position
        self.candidates: tuple[int, ...] | None = None
        self.branches: list[_Branch] = []
        self.num_done = 0


class _Branch:
    """A guess at the token behind a draft, and the steps taken behind it."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.tail: list[Drafted] = []
