"""Copying a checkpoint's tensors into the three parts, once, in little memory."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from submodels.bundle.fingerprint import fingerprint_of
from submodels.checkpoint.checkpoint import Checkpoint
from submodels.manifest import BundleFile, WrittenTensor
from submodels.plan.plan import SourceModel
from submodels.tensors.number_format import cast, item_bytes
from submodels.tensors.safetensors_writer import SafetensorsWriter, TensorToWrite
from submodels.tensors.tensor_layout import Part, Placement

Progress = Callable[[int, int], None]
"""Takes the bytes done and the bytes in all."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was learnt on the way: hashes of all tensors, and size and hash of each part's file.

    `fingerprint` is of what was written, `source_fingerprint` of what was read.
    """

    fingerprint: str
    source_fingerprint: str
    tensors: Mapping[str, WrittenTensor]
    files: Mapping[Path, BundleFile]


def copy_tensors(
    checkpoint: Checkpoint,
    model: SourceModel,
    placed: Sequence[Placement],
    paths: Mapping[Part, Path],
    targets: Mapping[str, str],
    progress: Progress,
) -> Copied:
    """Write the safetensors file of each part that has a path; of the others hashes are taken.

    `targets` is the number format (safetensors name) that each tensor is written in, by its name.

    Raises:
        CheckpointError: a file of the checkpoint ends early.
        SplitError: a number does not fit the target format.
    """
    # Wider numbers come first so that all are aligned; the sort keeps the order otherwise.
    ordered = sorted(placed, key=lambda p: -item_bytes(targets[p.source]))
    read: dict[str, WrittenTensor] = {}
    tensors: dict[str, WrittenTensor] = {}
    num_bytes = sum(checkpoint.tensors[p.source].num_bytes for p in ordered)
    num_done = 0
    with ExitStack() as stack:
        writers = {
            part: stack.enter_context(
                SafetensorsWriter(path, _announced(ordered, part, checkpoint, targets))
            )
            for part, path in paths.items()
        }
        for placement in ordered:
            tensor = checkpoint.tensors[placement.source]
            target = targets[tensor.name]
            source_digest = hashlib.sha256()
            digest = source_digest if target == tensor.dtype else hashlib.sha256()
            for piece in tensor.pieces():
                source_digest.update(piece)
                written = cast(piece, tensor.dtype, target, tensor.name)
                if digest is not source_digest:
                    digest.update(written)
                if placement.part in writers:
                    writers[placement.part].write(placement.name, written)
                num_done += len(piece)
                progress(num_done, num_bytes)
            read[tensor.name] = _hashed(tensor.dtype, source_digest)
            tensors[tensor.name] = _hashed(target, digest)
        files = {paths[part]: writer.finish() for part, writer in writers.items()}
    fingerprints = [fingerprint_of(model.shape, model.rope_parameters, t) for t in (tensors, read)]
    return Copied(fingerprints[0], fingerprints[1], tensors, files)


def _hashed(dtype: str, digest: "hashlib._Hash") -> WrittenTensor:
    return WrittenTensor(dtype=dtype, sha256=digest.hexdigest())


def _announced(
    ordered: Sequence[Placement], part: Part, checkpoint: Checkpoint, targets: Mapping[str, str]
) -> list[TensorToWrite]:
    """The tensors of one part in writing order, in their target formats."""
    announced = []
    for placement in ordered:
        if placement.part is part:
            source, target = checkpoint.tensors[placement.source], targets[placement.source]
            num_numbers = source.num_bytes // item_bytes(source.dtype)
            announced.append(
                TensorToWrite(
                    placement.name, target, source.shape, num_numbers * item_bytes(target)
                )
            )
    return announced
