"""`hat split`: one checkpoint into a device bundle and a cloud bundle, tensor by tensor."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from submodels.bundle.cloud_config import cloud_config
from submodels.bundle.coding_file import ChannelScales, write_channel_scales
from submodels.bundle.fingerprint import middle_fields
from submodels.bundle.manifest_file import MANIFEST_FILE
from submodels.checkpoint.checkpoint import CONFIG_FILE, Checkpoint, read_json
from submodels.checkpoint.completeness import check_tensors, is_tied_on_disk
from submodels.checkpoint.copying import Copied, Progress, copy_tensors
from submodels.checkpoint.fused import unfused
from submodels.checkpoint.hub import model_name, resolve_model
from submodels.checkpoint.opening import opened_checkpoint
from submodels.checkpoint.quantised.kept import KeptMiddle, kept_middle, write_kept
from submodels.checkpoint.quantised.settings import quantisation_of
from submodels.checkpoint.staging import staged_folder
from submodels.checkpoint.text_part import text_part, with_embedding
from submodels.checkpoint.tokenizer_files import SpecialTokens, copy_tokenizer, special_tokens
from submodels.errors import SplitError, UnsupportedModelError
from submodels.known_middle import KnownMiddle, read_known_middle
from submodels.manifest import (
    FORMAT_VERSION,
    BundleFile,
    DtypeName,
    Manifest,
    Role,
    WireRotation,
)
from submodels.plan.checks import check_split, default_input_layers
from submodels.plan.plan import SourceModel, read_model
from submodels.rotation.rotated import check_rotatable, rotated_checkpoint
from submodels.rotation.rotation import seeded_rotation
from submodels.tensors.file_hashes import sha256_of
from submodels.tensors.number_format import SAFETENSORS_NAMES, main_dtype
from submodels.tensors.tensor_layout import Part, Placement, placements

OnnxWeights = Literal["float32", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """What to split and how. `model` is a folder, a GGUF file or a hub id.

    `base` is what `model`, an adapter, is merged into; None takes what the adapter names.
    `num_input_layers` None is chosen by the model's depth. `dtype` "keep" leaves every tensor as
    it is; what a GGUF file holds in blocks becomes float32, what other tools have quantised the
    format that config.json names. `onnx_weights` names the ONNX files to make for the device; none
    makes the bundle usable by the torch engine only. `name` None takes the model's own.
    `rotation_seed` rotates the basis of hidden states; rotated numbers are kept in float32 where
    `dtype` is "keep", since a narrower format would round every weight again.
    `keep_quantisation` leaves the middle as another tool has quantised it, for vLLM alone.
    `long_context` takes LongRoPE's frequencies for texts beyond the original length.
    """

    model: str
    out: Path
    num_input_layers: int | None
    num_output_layers: int = 0
    dtype: Literal["keep", "float32", "float16", "bfloat16"] = "keep"
    onnx_weights: tuple[OnnxWeights, ...] = ("float32",)
    overwrite: bool = False
    name: str | None = None
    rotation_seed: int | None = None
    base: str | None = None
    middle_of: Path | None = None
    """A bundle, or a folder of two: only a device bundle is written, for that middle, where this
    model has the same one."""
    keep_quantisation: bool = False
    long_context: bool = False


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The bundles that were written, below `out`, as `device` and `cloud`.

    For a middle that was there before, `cloud` is the manifest of the bundle that told of it.
    """

    out: Path
    device: Manifest
    cloud: Manifest
    quantised_by: str | None = None
    """The method that the checkpoint's tensors were quantised by, if they were."""
    middle: KnownMiddle | None = None
    """The middle that was there before, and that the device bundle is for."""
    left_out: tuple[str, ...] = ()
    """Tensors of the checkpoint that no layer of the model is about."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A checkpoint that has passed all checks."""

    config: Mapping[str, Any]
    model: SourceModel
    checkpoint: Checkpoint
    num_input_layers: int
    placed: tuple[Placement, ...]
    dtype: DtypeName
    special: SpecialTokens
    rotation: WireRotation | None
    kept: KeptMiddle | None
    left_out: tuple[str, ...]


def split_checkpoint(options: SplitOptions, progress: Progress | None = None) -> SplitResult:
    """Split a checkpoint; `options.out` appears, or is replaced, only once it is whole.

    Args:
        options: What to split and how.
        progress: Called with (bytes done, bytes in all) of the checkpoint while copying.

    Raises:
        SplitError: the model, the checkpoint, the layer counts or the target are refused.
    """
    try:
        known = None if options.middle_of is None else read_known_middle(options.middle_of)
        options = options if known is None else _fitted(options, known)
        with opened_checkpoint(resolve_model(options.model), options.base) as checkpoint:
            source = _read_source(checkpoint, options)
            parts = ("device", "cloud") if known is None else ("device",)
            with staged_folder(options.out, parts, options.overwrite) as folder:
                if known is not None:
                    return _write_ends(source, options, known, folder, progress or _silent)
                return _write(source, options, folder, progress or _silent)
    except OSError as error:
        raise SplitError(f"cannot split into {options.out}: {error}") from error


def _fitted(options: SplitOptions, known: KnownMiddle) -> SplitOptions:
    """As the middle was split: where, in which basis, and in which format where it was cast."""
    manifest = known.manifest
    rotation, is_cast = manifest.wire_rotation, manifest.fingerprint != manifest.source_fingerprint
    num_input, num_output = options.num_input_layers, options.num_output_layers
    return replace(
        options,
        num_input_layers=manifest.num_input_layers if num_input is None else num_input,
        num_output_layers=num_output or manifest.num_output_layers,
        rotation_seed=None if rotation is None else rotation.seed,
        dtype=manifest.dtype if options.dtype == "keep" and is_cast else options.dtype,
    )


def _silent(num_done_bytes: int, num_bytes: int) -> None:
    """Report nothing."""


def _read_source(checkpoint: Checkpoint, options: SplitOptions) -> _Source:
    config, checkpoint = text_part(read_json(checkpoint.folder / CONFIG_FILE), checkpoint)
    model = read_model(config, options.long_context)
    num_input_layers = options.num_input_layers
    if num_input_layers is None:
        num_input_layers = default_input_layers(model.shape.num_layers)
        if model.shape.described.experts is not None:
            num_input_layers = 0
    try:
        check_split(model.shape.num_layers, num_input_layers, options.num_output_layers)
    except ValueError as error:
        raise SplitError(str(error)) from error
    _check_onnx(model, num_input_layers, options)
    checkpoint = with_embedding(checkpoint, model.shape.tied_embeddings)
    tied = is_tied_on_disk(checkpoint, model.shape.tied_embeddings)
    model = replace(model, shape=msgspec.structs.replace(model.shape, tied_embeddings=tied))
    checkpoint = unfused(checkpoint, model.shape, model.family.fused)
    placed = placements(model.shape, num_input_layers, options.num_output_layers)
    left_out = check_tensors(checkpoint, placed, tied, model.shape.num_layers)
    rotation = None
    if options.rotation_seed is not None:
        check_rotatable(model.shape)
        checkpoint, model, rotation = _rotated(checkpoint, model, options)
        placed = placements(model.shape, num_input_layers, options.num_output_layers)
    sources = [checkpoint.tensors[placement.source] for placement in placed]
    dtype = options.dtype
    if dtype == "keep":
        dtype = main_dtype((source.dtype, source.num_bytes) for source in sources)
    special = special_tokens(checkpoint.folder, config, model.shape.vocab_size)
    end_layer = model.shape.num_layers - options.num_output_layers
    kept = _kept(checkpoint.path, range(num_input_layers, end_layer), options)
    return _Source(
        config,
        model,
        checkpoint,
        num_input_layers,
        placed,
        dtype,
        special,
        rotation,
        kept,
        left_out,
    )


def _kept(path: Path, middle: range, options: SplitOptions) -> KeptMiddle | None:
    """The middle as it is quantised, if that was asked for and nothing changes its weights."""
    if not options.keep_quantisation:
        return None
    changed = {
        "--dtype": options.dtype != "keep",
        "--wire-rotation": options.rotation_seed is not None,
        "--base": options.base is not None,
        "--middle-of": options.middle_of is not None,
    }
    return kept_middle(path, middle, [name for name, is_given in changed.items() if is_given])


def _check_onnx(model: SourceModel, num_input_layers: int, options: SplitOptions) -> None:
    """Layers with experts run on torch only."""
    num_layers = num_input_layers + options.num_output_layers
    if model.shape.described.experts is not None and num_layers and options.onnx_weights:
        raise UnsupportedModelError(
            "layers with experts cannot be written as ONNX files: expected 0 input and 0 output "
            f"layers, got {num_input_layers} and {options.num_output_layers}; or no ONNX files "
            "(--onnx-weights none), for hat device --engine torch"
        )


def _rotated(
    checkpoint: Checkpoint, model: SourceModel, options: SplitOptions
) -> tuple[Checkpoint, SourceModel, WireRotation]:
    assert options.rotation_seed is not None
    seed, dtype = options.rotation_seed, options.dtype
    rotation = seeded_rotation(model.shape.hidden_size, seed)
    target = SAFETENSORS_NAMES["float32" if dtype == "keep" else dtype]
    checkpoint, shape = rotated_checkpoint(checkpoint, model.shape, rotation, target)
    told = WireRotation(seed=seed, sizes=rotation.sizes)
    return checkpoint, replace(model, shape=shape), told


def _write(source: _Source, options: SplitOptions, folder: Path, progress: Progress) -> SplitResult:
    device, cloud = folder / "device", folder / "cloud"
    paths = {part: (cloud if part is Part.MIDDLE else device) / part.value for part in Part}
    targets = _targets(source, options)
    copied = copy_tensors(source.checkpoint, source.model, source.placed, paths, targets, progress)
    source = _with_small_files(source, options, device)
    config = cloud_config(source.config, source.model, _middle(source, options), source.dtype)
    if source.kept is not None:
        config["quantization_config"] = source.kept.settings
    (cloud / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    write_channel_scales(cloud, _measured(source, options, device, cloud))
    if source.kept is not None:
        # Only now: the channels were measured with plain layers.
        middle = paths[Part.MIDDLE]
        copied = replace(copied, files={**copied.files, middle: write_kept(middle, source.kept)})
    return SplitResult(
        options.out,
        _written(device, _manifest("device", source, options, device, copied)),
        _written(cloud, _manifest("cloud", source, options, cloud, copied)),
        _quantised_by(source),
        left_out=source.left_out,
    )


def _write_ends(
    source: _Source,
    options: SplitOptions,
    known: KnownMiddle,
    folder: Path,
    progress: Progress,
) -> SplitResult:
    """The device bundle alone; of the middle's tensors hashes are taken, to compare them.

    Raises:
        OtherMiddleError: they are not those of `known`, or are computed in another way.
    """
    model, middle, device = source.model, _middle(source, options), folder / "device"
    known.check_fields(
        middle_fields(model.shape, model.rope_parameters, middle, source.rotation), middle
    )
    paths = {part: device / part.value for part in (Part.INPUT, Part.OUTPUT)}
    targets = {**_targets(source, options), **known.formats}
    copied = copy_tensors(source.checkpoint, model, source.placed, paths, targets, progress)
    may_round = options.dtype != "keep"
    known.check_tensors(source.checkpoint, source.placed, copied.tensors, may_round)
    source = _with_small_files(source, options, device)
    manifest = _manifest("device", source, options, device, copied)
    _written(device, manifest)
    quantised_by = _quantised_by(source)
    return SplitResult(options.out, manifest, known.manifest, quantised_by, known, source.left_out)


def _targets(source: _Source, options: SplitOptions) -> dict[str, str]:
    """The number format that each tensor is written in, by its name."""
    tensors = source.checkpoint.tensors
    if options.dtype == "keep":
        return {placement.source: tensors[placement.source].dtype for placement in source.placed}
    return dict.fromkeys(
        (placement.source for placement in source.placed), SAFETENSORS_NAMES[options.dtype]
    )


def _with_small_files(source: _Source, options: SplitOptions, device: Path) -> _Source:
    """The source once the device bundle has its tokenizer and ONNX parts.

    A tokenizer of an older format has its special ids only then.
    """
    vocab_size = source.model.shape.vocab_size
    copy_tokenizer(source.checkpoint.folder, device, vocab_size)
    special = special_tokens(device, source.config, vocab_size)
    source = replace(source, special=special)
    _write_onnx(source, options, device)
    return source


def _quantised_by(source: _Source) -> str | None:
    told = quantisation_of(source.checkpoint.folder)
    return told["quant_method"] if told is not None else None


def _written(folder: Path, manifest: Manifest) -> Manifest:
    """A bundle's manifest, once it lies in its folder."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (folder / MANIFEST_FILE).write_bytes(text + b"\n")
    return manifest


def _measured(source: _Source, options: SplitOptions, device: Path, cloud: Path) -> ChannelScales:
    """How large the numbers of each channel are, on a short text; one layer at a time."""
    from submodels.calibration.passing import rows_on_the_link
    from submodels.calibration.scales import channel_scales, largest_channels
    from submodels.calibration.text import calibration_ids

    shape = source.model.shape
    ids = calibration_ids(device, shape.vocab_size, shape.max_context_tokens)
    up, down = rows_on_the_link(device, cloud, shape, _middle(source, options), ids)
    stands_out = largest_channels if source.rotation is None else _none
    return ChannelScales(
        up=channel_scales(up),
        down=channel_scales(down),
        up_largest=stands_out(up),
        down_largest=stands_out(down),
    )


def _none(rows: NDArray[Any]) -> tuple[int, ...]:
    """In a rotated basis no channel is larger than the others."""
    return ()


def _middle(source: _Source, options: SplitOptions) -> range:
    num_layers = source.model.shape.num_layers
    return range(source.num_input_layers, num_layers - options.num_output_layers)


def _manifest(
    role: Role, source: _Source, options: SplitOptions, folder: Path, copied: Copied
) -> Manifest:
    """The manifest of a bundle whose other files are all written."""
    on_device = role == "device"
    return Manifest(
        format_version=FORMAT_VERSION,
        role=role,
        model_name=options.name or model_name(options.model),
        dtype=source.dtype,
        num_input_layers=source.num_input_layers,
        num_output_layers=options.num_output_layers,
        fingerprint=copied.fingerprint,
        shape=source.model.shape,
        files=_files(folder, copied.files),
        tensors=dict(sorted(copied.tensors.items())),
        rope_parameters=dict(source.model.rope_parameters),
        source_fingerprint=copied.source_fingerprint,
        bos_token_id=source.special.bos_token_id if on_device else None,
        eos_token_ids=source.special.eos_token_ids if on_device else (),
        onnx_weights=options.onnx_weights if on_device else (),
        wire_rotation=source.rotation,
        kept_quantisation=None if on_device or source.kept is None else source.kept.method,
    )


def _write_onnx(source: _Source, options: SplitOptions, device: Path) -> None:
    if not options.onnx_weights:
        return
    from submodels.onnx.graphs import write_onnx

    write_onnx(
        device,
        source.model.shape,
        source.num_input_layers,
        options.num_output_layers,
        options.onnx_weights,
    )


def _files(folder: Path, known: Mapping[Path, BundleFile]) -> dict[str, BundleFile]:
    """Size and hash of every file of a bundle, hashing those not hashed while writing."""
    return {
        path.name: known.get(path)
        or BundleFile(num_bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.iterdir())
    }
