"""The settings of an audit, one after the other: rows through the link, and attacks on them."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hat.audit import controls
from hat.audit.cut_model import CutModel, with_other_ends
from hat.audit.documents import Tokens
from hat.audit.downwards import Returned, attacked_down, attacked_from_below, said_by
from hat.audit.material import Known, Material, answered, known_pairs
from hat.audit.passages import Codec, FoundRotation, Link, Passage, passage_of
from hat.audit.receipt import PUBLIC, Cell, Control, Direction, Figure, Plan
from hat.audit.scoring import Ids
from hat.audit.upwards import Heard, Judge, attacked_up
from wire.messages import Dtype

Place = tuple[Direction, int, Codec, float]
Done = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Texts:
    """What an audit runs over, in token ids."""

    prompts: Sequence[Tokens]
    known: Sequence[Tokens]
    typical: Tokens
    """What a split measures its codecs with."""
    num_opening: int
    """Tokens that every document begins with."""


def places(plan: Plan) -> Iterator[Place]:
    """Every setting. Ends that the attacker has not are measured over the exact codec alone."""
    for direction, numbers in (("up", plan.input_layers), ("down", plan.output_layers)):
        for number in numbers:
            for codec in plan.codecs:
                yield direction, number, codec, PUBLIC  # type: ignore[misc]
            for distance in plan.distances:
                if distance != PUBLIC:
                    yield direction, number, "exact", distance  # type: ignore[misc]


def depths(plan: Plan) -> set[int]:
    """Where rows are looked at; controls do behind the first layer."""
    shallow = {*plan.input_layers, min(1, max(plan.input_layers))}
    return shallow | {plan.num_layers - number for number in plan.output_layers}


def material(model: CutModel, plan: Plan, texts: Texts, done: Done) -> Material:
    """Answers and rows; `done` is called after each document and each known text."""
    sizes, wanted = plan.sizes, depths(plan)
    chance = torch.Generator().manual_seed(plan.seed)
    documents = []
    for number, prompt in enumerate(texts.prompts):
        is_greedy = number % 2 == 0
        documents.append(answered(model, prompt, sizes.answer_tokens, is_greedy, chance))
        done()
    return Material(
        documents,
        [model.traced(doc.sent, wanted) for doc in documents],
        known_pairs(model, texts.known, wanted, max(sizes.known_pairs), plan.seed, done),
        model.traced(texts.typical, wanted),
    )


@dataclass(frozen=True, slots=True)
class _Setting:
    """A place, and how rows pass there."""

    depth: int
    codec: Codec
    distance: float
    passage: Passage


class Measuring:
    """Controls and cells of one plan."""

    def __init__(
        self,
        model: CutModel,
        plan: Plan,
        texts: Texts,
        held: Material,
        found: FoundRotation | None,
        dtype: Dtype,
    ) -> None:
        self._model = model
        self._plan = plan
        self._texts = texts
        self._held = held
        self._found = found
        self._dtype = dtype

    def control(self) -> Iterator[Control]:
        """Each attack on planted leaks."""
        plan, sizes, thresholds = self._plan, self._plan.sizes, self._plan.thresholds
        said = [
            np.array(doc.sent[: sizes.control_tokens])
            for doc in self._held.documents[: sizes.control_documents]
        ]
        chance = np.random.default_rng(plan.seed)
        documents = controls.planted(said, thresholds.planted_share, chance)
        known, depth = self._held.known, min(1, max(plan.input_layers))
        for each in controls.instruments(self._model, depth, known, thresholds, plan.seed):
            guesses = [each.guess(each.rows(ids)).numpy() for ids in documents.shown]
            yield controls.judged(each.attack, guesses, documents, thresholds, chance)
        lens = controls.lens_instrument(self._model)
        guesses = [lens.guess(lens.rows(ids)).numpy() for ids in documents.shown]
        answers = [self._chosen(ids) for ids in said]
        answered = controls.Planted(answers, documents.shown, documents.num_planted)
        yield controls.judged(lens.attack, guesses, answered, thresholds, chance)

    def cell(self, place: Place) -> Cell | None:
        """The figures of a setting; None where this model has no such codec."""
        direction, number, codec, distance = place
        seed = zlib.crc32(repr((place, self._plan.seed)).encode())
        judge = Judge(self._plan.thresholds, self._plan.sizes, seed)
        depth = number if direction == "up" else self._plan.num_layers - number
        link = Link(self._dtype, self._held.typical[depth], self._plan.is_rotated, self._found)
        passage = passage_of(codec, link)
        if passage is None:
            return None
        measure = self._up if direction == "up" else self._down
        figures, change = measure(_Setting(depth, codec, distance, passage), judge)
        return Cell(
            direction=direction,
            num_layers=number,
            codec=codec,
            distance=distance,
            figures=tuple(figures),
            perplexity_change=change,
        )

    def _up(self, setting: _Setting, judge: Judge) -> tuple[list[Figure], float | None]:
        held, depth, change = self._held, setting.depth, None
        rows, known = [each[depth] for each in held.rows], held.known
        if setting.distance != PUBLIC:
            device = with_other_ends(self._model, depth, 0, setting.distance, self._plan.seed)
            rows = [device.traced(doc.sent, [depth])[depth] for doc in held.documents]
            known = self._known_of(device, depth)
            change = self._perplexity_change(depth, rows, self._model)
        said = [np.array(doc.sent) for doc in held.documents]
        pairs = known.rows[depth], known.token_ids
        heard = self._heard(rows, said, pairs, setting)
        return attacked_up(self._model, depth, heard, judge), change

    def _down(self, setting: _Setting, judge: Judge) -> tuple[list[Figure], float | None]:
        held, depth, change = self._held, setting.depth, None
        rows, known = [each[depth] for each in held.rows], held.known
        said: list[Ids] = [doc.answer for doc in held.documents]
        if setting.distance != PUBLIC:
            num_output = len(self._model.layers) - depth
            device = with_other_ends(self._model, 0, num_output, setting.distance, self._plan.seed)
            chosen = said_by(device, depth, held.documents, rows, self._plan.seed)
            said = [ids.numpy() for ids in chosen]
            change = self._perplexity_change(depth, rows, device)
        heard = self._heard(rows, said, (known.rows[depth], known.following), setting)
        figures = attacked_down(self._model, depth, Returned(held.documents, heard), judge)
        # All layers below rows cost most, and how many are above changes little: measured once.
        is_first = depth == self._plan.num_layers - min(self._plan.output_layers)
        if is_first and setting.codec == "exact" and setting.distance == PUBLIC:
            figures += attacked_from_below(self._model, depth, self._begun(heard), judge)
        return figures, change

    def _heard(
        self,
        rows: Sequence[Tensor],
        said: Sequence[Ids],
        pairs: tuple[Tensor, Tensor],
        setting: _Setting,
    ) -> Heard:
        thresholds = self._plan.thresholds
        match = thresholds.match_exact if setting.codec == "exact" else thresholds.match_rounded
        return Heard(
            rows=[setting.passage(each) for each in rows],
            said=said,
            known_rows=setting.passage(pairs[0]),
            known_ids=pairs[1],
            distance=setting.distance,
            match=match,
            opening=self._held.documents[0].sent[: self._texts.num_opening],
        )

    def _begun(self, heard: Heard) -> Heard:
        """The beginnings of a few documents, with the tokens that are sent."""
        sizes = self._plan.sizes
        count, length = sizes.optimised_documents, sizes.optimised_tokens
        sent = [np.array(doc.sent[:length]) for doc in self._held.documents[:count]]
        rows = [each[:length] for each in heard.rows[:count]]
        return replace(heard, rows=rows, said=sent, known_ids=self._held.known.token_ids)

    def _known_of(self, device: CutModel, depth: int) -> Known:
        most, seed = max(self._plan.sizes.known_pairs), self._plan.seed
        return known_pairs(device, self._texts.known, [depth], most, seed, lambda: None)

    def _chosen(self, ids: Ids) -> Ids:
        depth = len(self._model.layers)
        rows = self._model.traced(ids.tolist(), [depth])[depth]
        best: Ids = self._model.head(rows).argmax(-1).numpy()
        return best

    def _perplexity_change(self, depth: int, rows: Sequence[Tensor], device: CutModel) -> float:
        """Of the audited texts: these rows with a device's output, against the public model's."""
        public = [each[depth] for each in self._held.rows]
        moved, plain = self._nll(device, rows, depth), self._nll(self._model, public, depth)
        return round(float(np.expm1(moved - plain)), 3)

    def _nll(self, model: CutModel, rows: Sequence[Tensor], depth: int) -> float:
        """Mean over tokens, of the audited texts."""
        said = [
            model.logits(each, depth)[:-1]
            .log_softmax(-1)
            .gather(1, torch.tensor(doc.sent[1:])[:, None])
            for doc, each in zip(self._held.documents, rows, strict=True)
        ]
        return -float(torch.cat(said).mean())
