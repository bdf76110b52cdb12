"""From folders and texts to a receipt: what `hat audit` does."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch

from adapters.data.corpus import CorpusError, load_tokenizer
from adapters.data.whole_model import WholeModel, load_whole_model
from bench.receipts import versions
from hat.audit.cut_model import cut_model
from hat.audit.documents import Reader, drawn_documents, known_windows
from hat.audit.measuring import Measuring, Texts, material, places
from hat.audit.passages import CODECS, FoundRotation, find_rotation
from hat.audit.receipt import PUBLIC, Plan, Receipt, Source, read_receipt, write_receipt
from hat.audit.thresholds import THRESHOLDS, Sizes
from hat.codec_eval.run import WIRE_DTYPES
from hat.errors import CommandError
from process.errors import reading_reason
from process.machine import commit, processor
from submodels.bundle.layer_weights import Placed
from submodels.calibration.text import calibration_ids
from submodels.errors import UnsupportedModelError
from submodels.rotation.rotated import check_rotatable

_KNOWN_WINDOW: Final = 256

Progress = Callable[[str, int, int], None]
"""Takes what is done, how many parts of it are, and of how many."""


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What to measure."""

    bundles: Path
    """The folder that `hat split` wrote."""
    text: Path
    """What users say."""
    known: Path
    """What an attacker has sent himself, and knows."""
    command: str
    """As it was typed."""
    input_layers: tuple[int, ...] = ()
    output_layers: tuple[int, ...] = ()
    """Where to cut; empty: where the bundles do."""
    distances: tuple[float, ...] = (PUBLIC, 0.1)
    seed: int = 0
    sizes: Sizes = field(default_factory=Sizes)
    receipt: Path | None = None
    """Written after every part, and gone on from."""


def audit(options: AuditOptions, progress: Progress) -> Receipt:
    """Measure every setting, or what is left of them in an earlier receipt of the same plan.

    Raises:
        UserError: bundles or texts that cannot be used, or a receipt of something else.
    """
    model = load_whole_model(options.bundles, options.bundles, Placed(torch.float32))
    plan = _plan(model, options)
    receipt = _earlier(options.receipt)
    if receipt is not None and receipt.plan != plan:
        raise CommandError(
            f"{options.receipt} is of an audit with other settings, files or versions: "
            "name another file, or remove it"
        )
    with torch.no_grad():
        return _measured(model, plan, options, receipt, progress)


def _measured(
    model: WholeModel,
    plan: Plan,
    options: AuditOptions,
    receipt: Receipt | None,
    progress: Progress,
) -> Receipt:
    texts = _texts(model, options)
    num_parts = len(texts.prompts) + len(texts.known)
    num_done = 0

    def done() -> None:
        nonlocal num_done
        num_done += 1
        progress("running the model", num_done, num_parts)

    whole = cut_model(model)
    held = material(whole, plan, texts, done)
    found = _rotation(model, plan)
    measuring = Measuring(whole, plan, texts, held, found, WIRE_DTYPES[model.manifest.dtype])
    if receipt is None:
        progress("planting leaks", 0, 1)
        receipt = Receipt(
            command=options.command,
            plan=plan,
            num_documents=len(held.documents),
            num_tokens=sum(len(doc.token_ids) for doc in held.documents),
            rotation_found=None if found is None else found.error < THRESHOLDS.rotation_error,
            controls=tuple(measuring.control()),
        )
        _keep(options, receipt)
    return _with_cells(measuring, options, receipt, progress)


def _with_cells(
    measuring: Measuring, options: AuditOptions, receipt: Receipt, progress: Progress
) -> Receipt:
    wanted = list(places(receipt.plan))
    have = {cell.place for cell in receipt.cells}
    for number, place in enumerate(wanted):
        direction, layers, codec, distance = place
        ends = "" if distance == PUBLIC else f", ends {distance:g} away"
        name = f"{direction}, {layers} {'input' if direction == 'up' else 'output'} layers"
        progress(f"{name}, {codec}{ends}", number, len(wanted))
        if place not in have and (cell := measuring.cell(place)) is not None:
            receipt = msgspec.structs.replace(receipt, cells=(*receipt.cells, cell))
            _keep(options, receipt)
    progress("attacking", len(wanted), len(wanted))
    return receipt


def _earlier(path: Path | None) -> Receipt | None:
    if path is None:
        return None
    if not path.parent.is_dir():
        raise CommandError(f"cannot write {path}: there is no folder {path.parent}")
    return read_receipt(path)


def _keep(options: AuditOptions, receipt: Receipt) -> None:
    if options.receipt is not None:
        write_receipt(options.receipt, receipt)


def _plan(model: WholeModel, options: AuditOptions) -> Plan:
    manifest = model.manifest
    shape = manifest.shape
    input_layers = options.input_layers or (manifest.num_input_layers,)
    output_layers = options.output_layers or (manifest.num_output_layers,)
    if max(input_layers) + max(output_layers) >= shape.num_layers:
        raise CommandError(
            f"expected fewer than {shape.num_layers} layers on the device, got "
            f"{max(input_layers)} and {max(output_layers)}"
        )
    return Plan(
        model=Path(manifest.model_name).name,
        fingerprint=manifest.fingerprint,
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        wire_dtype=manifest.dtype,
        is_rotated=manifest.wire_rotation is not None,
        input_layers=input_layers,
        output_layers=output_layers,
        codecs=CODECS,
        distances=options.distances,
        text=_source(options.text),
        known=_source(options.known),
        seed=options.seed,
        sizes=options.sizes,
        thresholds=THRESHOLDS,
        versions=versions(),
        hardware=processor(),
        commit=commit(),
    )


def _texts(model: WholeModel, options: AuditOptions) -> Texts:
    bundle, sizes = model.device_bundle, options.sizes
    longest = bundle.manifest.shape.max_context_tokens
    if sizes.prompt_tokens + sizes.answer_tokens + 1 > longest:
        raise CommandError(
            f"expected documents and answers of at most {longest} tokens, got "
            f"{sizes.prompt_tokens} and {sizes.answer_tokens}"
        )
    reader = Reader(load_tokenizer(bundle), bundle.manifest.bos_token_id)
    chance = np.random.default_rng(options.seed)
    window = min(_KNOWN_WINDOW, longest)
    prompts = drawn_documents(
        options.text, reader, sizes.prompt_tokens, sizes.num_documents, chance
    )
    if len(prompts) < 2:
        raise CorpusError(f"{options.text}: expected two documents or more, got {len(prompts)}")
    # A window's last token has nothing behind it, so that it makes no pair.
    most = max(sizes.known_pairs) * window // (window - 1) + window
    known = known_windows(options.known, reader, most, window)
    num_pairs = len(known) * (window - 1)
    if num_pairs < max(sizes.known_pairs):
        raise CorpusError(
            f"{options.known} gives {num_pairs} known pairs, {max(sizes.known_pairs)} are needed"
        )
    typical = calibration_ids(bundle.path, bundle.manifest.shape.vocab_size, longest)
    return Texts(prompts, known, tuple(typical), len(reader.opening))


def _rotation(model: WholeModel, plan: Plan) -> FoundRotation | None:
    """Of bundles that are not rotated, what a rotation would give away."""
    if plan.is_rotated:
        return None
    try:
        check_rotatable(model.manifest.shape)
    except UnsupportedModelError:
        return None
    return find_rotation(model.middle_layers[0], plan.seed)


def _source(path: Path) -> Source:
    try:
        return Source(name=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise CorpusError(f"cannot read text from {path}: {reading_reason(error)}") from error
