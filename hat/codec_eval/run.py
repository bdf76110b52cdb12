"""From folders and a text to results: what `hat codec-eval` does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from adapters.data.corpus import Corpus, CorpusError, Tokens, Windows, collect_windows
from adapters.data.whole_model import WholeModel, load_whole_model
from hat.codec_eval.codecs import codecs_under_test
from hat.codec_eval.measure import CodecResult, Evaluation
from hat.codec_eval.report import Subject
from hat.errors import CommandError
from submodels.bundle.bundle import load_bundle
from submodels.bundle.coding_file import read_channel_scales
from submodels.bundle.layer_weights import Placed
from submodels.manifest import DtypeName, Manifest
from wire.messages import Dtype

WIRE_DTYPES: dict[DtypeName, Dtype] = {
    "float32": Dtype.FP32,
    "float16": Dtype.FP16,
    "bfloat16": Dtype.BF16,
}
"""The link's number formats by their names."""

Progress = Callable[[int, int], None]
"""Takes the pieces done and the pieces in all."""


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What to measure."""

    bundles: Path
    """The folder that `hat split` wrote."""
    text: Path
    num_positions: int
    piece_tokens: int = 256
    num_channels: int = 6
    """Channels that are sent as they are in some arms; 0 leaves these out."""
    wire_dtype: DtypeName | None = None
    """None: the bundles' own."""
    reference: Path | None = None
    """Bundles of the same model, split otherwise."""
    device: str = "cpu"


def evaluate(options: EvalOptions, progress: Progress) -> tuple[Subject, list[CodecResult]]:
    """Run every codec over the text.

    Raises:
        UserError: bundles that cannot be used, or a text that is missing or too short.
    """
    model = _loaded(options.bundles, options.device)
    reference = None
    if options.reference is not None:
        reference = _loaded(options.reference, options.device)
        _check_same_tokens(model.manifest, reference.manifest)
    pieces = _pieces(model, options)
    wire_dtype = options.wire_dtype or model.manifest.dtype
    scales = read_channel_scales(load_bundle(options.bundles, "cloud"))
    hidden_size = model.manifest.shape.hidden_size
    codecs = codecs_under_test(WIRE_DTYPES[wire_dtype], hidden_size, scales, options.num_channels)
    num_done = 0

    def done() -> None:
        nonlocal num_done
        num_done += 1
        progress(num_done, len(pieces))

    progress(0, len(pieces))
    results = Evaluation(model, reference).run(pieces, codecs, done)
    other = None if options.reference is None else str(options.reference)
    subject = Subject(model.manifest, options.text.name, options.piece_tokens, wire_dtype, other)
    return subject, results


def _loaded(bundles: Path, device: str) -> WholeModel:
    try:
        return load_whole_model(bundles, bundles, Placed(torch.float32, torch.device(device)))
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"cannot compute on {device!r}: {error}") from error


def _check_same_tokens(manifest: Manifest, other: Manifest) -> None:
    ours, theirs = manifest.shape.vocab_size, other.shape.vocab_size
    if ours != theirs:
        raise CommandError(f"expected a reference with {ours} tokens, got one with {theirs}")


def _pieces(model: WholeModel, options: EvalOptions) -> list[Tokens]:
    """As many as were asked for."""
    size = options.piece_tokens
    longest = model.manifest.shape.max_context_tokens
    if size > longest:
        raise CommandError(f"expected pieces of at most {longest} tokens, got {size}")
    wanted = -(-options.num_positions // size)
    corpus = Corpus(model.device_bundle, (options.text,))
    pieces = collect_windows(corpus, Windows(size, size), wanted * size)
    if len(pieces) < wanted:
        raise CorpusError(
            f"{options.text} has {len(pieces)} pieces of {size} tokens, {wanted} are needed for "
            f"{options.num_positions} positions"
        )
    return pieces
