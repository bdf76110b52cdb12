"""The model run over a text with each codec between its parts, and held against itself without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.data.whole_model import WholeModel
from hat.codec_eval.codecs import CodecUnderTest, Received
from submodels.bundle.layers import DecoderLayer, LayerCache, embed, run_layers

Way = Literal["up", "down", "both"]
"""Where rows go through the codec: device to cloud, cloud to device, or both."""
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(slots=True)
class Tally:
    """Sums over positions; the means are properties."""

    num_positions: int = 0
    num_agreeing: int = 0
    kl: float = 0.0
    num_followed: int = 0
    """Positions whose next token is in the text."""
    nll: float = 0.0
    clean_nll: float = 0.0
    num_bytes: int = 0
    num_values: int = 0

    @property
    def agreement(self) -> float:
        """The share of positions with the reference's most probable token."""
        return self.num_agreeing / self.num_positions

    @property
    def mean_kl(self) -> float:
        """Of the reference's distribution to this one, in nats."""
        return self.kl / self.num_positions

    @property
    def perplexity_change(self) -> float:
        """0.01: one percent more than the reference's."""
        return float(np.expm1((self.nll - self.clean_nll) / self.num_followed))

    @property
    def clean_perplexity(self) -> float:
        """The reference's."""
        return float(np.exp(self.clean_nll / self.num_followed))

    @property
    def bits_per_value(self) -> float:
        """What went over the link."""
        return 8 * self.num_bytes / self.num_values


@dataclass(frozen=True, slots=True)
class CodecResult:
    """One codec's tallies."""

    name: str
    ways: dict[Way, Tally] = field(default_factory=lambda: {way: Tally() for way in WAYS})


@dataclass(frozen=True, slots=True)
class _Clean:
    """What the reference says of a piece `[T]`."""

    log_probabilities: Tensor
    probabilities: Tensor
    """Both `[T, V]`."""
    best: Tensor
    """`[T]`, the most probable tokens."""
    nll: float
    """Of the tokens but the first, summed."""
    token_ids: Tensor


def _clean(log_probabilities: Tensor, token_ids: Tensor) -> _Clean:
    return _Clean(
        log_probabilities,
        log_probabilities.exp(),
        log_probabilities.argmax(-1),
        _nll(log_probabilities, token_ids),
        token_ids,
    )


class Evaluation:
    """A model of two bundles, and the one it is held against: itself, or another one's bundles."""

    def __init__(self, model: WholeModel, reference: WholeModel | None = None) -> None:
        self._model = model
        self._reference = reference

    def run(
        self,
        pieces: Sequence[NDArray[np.int32]],
        codecs: Sequence[CodecUnderTest],
        done: Callable[[], None],
    ) -> list[CodecResult]:
        """A result for each codec; with a reference, first one of the model without any.

        Args:
            pieces: Token ids, each a text of its own.
            codecs: What to compare.
            done: Called after each piece.
        """
        results = [CodecResult(codec.name) for codec in codecs]
        own = [] if self._reference is None else [CodecResult("none (the weights alone)")]
        with torch.inference_mode():
            for token_ids in pieces:
                shallow = self._shallow(token_ids.tolist())
                deep = self._deep(shallow)
                clean = self._clean(token_ids, deep)
                for result in own:
                    for tally in result.ways.values():
                        self._judge(clean, tally, deep, [])
                for codec, result in zip(codecs, results, strict=True):
                    self._through(codec, result, clean, shallow, deep)
                done()
        return own + results

    def _through(
        self,
        codec: CodecUnderTest,
        result: CodecResult,
        clean: _Clean,
        shallow: Tensor,
        deep: Tensor,
    ) -> None:
        up, down = codec.up(shallow.numpy(force=True)), codec.down(deep.numpy(force=True))
        self._judge(clean, result.ways["down"], self._placed(down), [down])
        deep_of_coded = self._deep(self._placed(up))
        self._judge(clean, result.ways["up"], deep_of_coded, [up])
        both = codec.down(deep_of_coded.numpy(force=True))
        self._judge(clean, result.ways["both"], self._placed(both), [up, both])

    def _judge(self, clean: _Clean, tally: Tally, deep: Tensor, sent: Sequence[Received]) -> None:
        came = _log_probabilities(self._model, deep)
        tally.num_positions += len(came)
        tally.num_agreeing += int((came.argmax(-1) == clean.best).sum())
        tally.num_followed += len(came) - 1
        tally.nll += _nll(came, clean.token_ids)
        tally.clean_nll += clean.nll
        difference = torch.sub(clean.log_probabilities, came, out=came)
        tally.kl += float(difference.mul_(clean.probabilities).sum(dtype=torch.float64))
        tally.num_bytes += sum(received.num_bytes for received in sent)
        tally.num_values += sum(received.rows.size for received in sent)

    def _clean(self, token_ids: NDArray[np.int32], deep: Tensor) -> _Clean:
        ids = torch.tensor(token_ids, dtype=torch.long, device=deep.device)
        if self._reference is None:
            return _clean(_log_probabilities(self._model, deep), ids)
        other = Evaluation(self._reference)
        said = _log_probabilities(self._reference, other._deep(other._shallow(token_ids.tolist())))
        return _clean(said, ids)

    def _shallow(self, token_ids: Sequence[int]) -> Tensor:
        return _through_layers(self._model.input_layers, embed(self._model.embedding, token_ids))

    def _deep(self, shallow: Tensor) -> Tensor:
        return _through_layers(self._model.middle_layers, shallow)

    def _placed(self, received: Received) -> Tensor:
        return torch.from_numpy(received.rows).to(self._model.embedding)


def _log_probabilities(model: WholeModel, deep: Tensor) -> Tensor:
    logits = model.head(_through_layers(model.output_layers, deep))
    return torch.log_softmax(logits.float(), dim=-1)


def _nll(log_probabilities: Tensor, token_ids: Tensor) -> float:
    """Of each token but the first, summed."""
    following = token_ids[1:, None]
    return -float(log_probabilities[:-1].gather(1, following).sum(dtype=torch.float64))


def _through_layers(layers: Sequence[DecoderLayer], rows: Tensor) -> Tensor:
    return run_layers(layers, rows, 0, [LayerCache() for _ in layers])
