"""A middle that is there already, and whether another model's middle layers are the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from submodels.bundle.bundle import Bundle, load_bundle
from submodels.bundle.fingerprint import middle_fields, middle_tensors
from submodels.bundle.manifest_file import MANIFEST_FILE, read_manifest
from submodels.checkpoint.checkpoint import Checkpoint, SourceTensor
from submodels.errors import OtherMiddleError
from submodels.manifest import Manifest, Role, WrittenTensor
from submodels.tensors.number_format import cast
from submodels.tensors.tensor_file import NUMPY_DTYPES
from submodels.tensors.tensor_layout import Part, Placement


@dataclass(frozen=True, slots=True)
class KnownMiddle:
    """The middle layers that a bundle tells of.

    `cloud` is the bundle that holds them; None where the one at hand is a device's, which lists
    their hashes alone.
    """

    path: Path
    manifest: Manifest
    cloud: Bundle | None

    @property
    def formats(self) -> Mapping[str, str]:
        """The number format (safetensors name) of each tensor, by its name in the checkpoint."""
        return {name: written.dtype for name, written in middle_tensors(self.manifest).items()}

    def check_fields(self, fields: Mapping[str, object], middle: range) -> None:
        """Return if another model's middle layers are the same ones, computed in the same way.

        Args:
            fields: The other model's, by `middle_fields`.
            middle: Its middle layers.

        Raises:
            OtherMiddleError: they are not; the message names what differs.
        """
        manifest = self.manifest
        first = manifest.num_input_layers
        here = range(first, first + manifest.num_middle_layers)
        if middle != here:
            raise OtherMiddleError(
                f"other input or output layers give another middle: {self.path} has layers "
                f"[{here.start}, {here.stop}), asked for are [{middle.start}, {middle.stop}); "
                "leave --input-layers and --output-layers out"
            )
        known = middle_fields(
            manifest.shape, manifest.rope_parameters, here, manifest.wire_rotation
        )
        # As they would be written: lists and tuples are one.
        known, fields = msgspec.to_builtins(known), msgspec.to_builtins(fields)
        differing = [
            f"{name} is {known.get(name)!r} there and {fields.get(name)!r} here"
            for name in sorted(known.keys() | fields.keys())
            if known.get(name) != fields.get(name)
        ]
        if differing:
            raise OtherMiddleError(
                f"the middle of {self.path} computes in another way: {'; '.join(differing)}"
            )

    def check_tensors(
        self,
        checkpoint: Checkpoint,
        placed: Sequence[Placement],
        written: Mapping[str, WrittenTensor],
        may_round: bool,
    ) -> None:
        """Return if another model's middle tensors are the same numbers.

        Args:
            checkpoint: Holds the other model's tensors.
            placed: Where they go.
            written: Their hashes, in the formats that this middle has.
            may_round: Whether they were asked for in these formats; else a tensor that says more
                than its format here can hold is another one.

        Raises:
            OtherMiddleError: some are not; the message names the first of them, says how many,
                and how far they are apart at most where this middle's numbers are at hand.
        """
        known = middle_tensors(self.manifest)
        middle = [placement for placement in placed if placement.part is Part.MIDDLE]
        differing = [
            placement
            for placement in middle
            if written[placement.source] != known.get(placement.source)
            or not (
                may_round
                or _is_whole(checkpoint.tensors[placement.source], known[placement.source].dtype)
            )
        ]
        if differing:
            raise self._refusal(checkpoint, differing, len(middle))

    def _refusal(
        self, checkpoint: Checkpoint, differing: Sequence[Placement], num_tensors: int
    ) -> OtherMiddleError:
        distances = [
            self._greatest_difference(checkpoint.tensors[placement.source], placement)
            for placement in differing
        ]
        by = f"by up to {max(distances):.3g}"
        if self.cloud is None:
            by = "how far only the cloud's bundle can tell, a device's has hashes"
        return OtherMiddleError(
            f"the middle layers of {checkpoint.path} are not those of {self.path}: "
            f"{len(differing)} of {num_tensors} tensors differ, {by}",
            tuple(
                placement.source + ("" if self.cloud is None else f": by up to {distance:.3g}")
                for placement, distance in zip(differing, distances, strict=True)
            ),
        )

    def _greatest_difference(self, tensor: SourceTensor, placement: Placement) -> float:
        """Between numbers of one place; infinite where one of them is no number."""
        if self.cloud is None:
            return 0.0
        known = self.cloud.read_tensor(Part.MIDDLE, placement.name).reshape(-1)
        greatest, begin = 0.0, 0
        for piece in tensor.pieces():
            numbers = np.frombuffer(piece, NUMPY_DTYPES[tensor.dtype]).astype(np.float64)
            there = known[begin : begin + numbers.size].astype(np.float64)
            distance = float(np.max(np.abs(numbers - there), initial=0.0))
            greatest = max(greatest, distance if np.isfinite(distance) else np.inf)
            begin += numbers.size
        return greatest


def read_known_middle(path: Path) -> KnownMiddle:
    """The middle that a bundle, or a folder of two, tells of.

    Raises:
        BundleError: there is no bundle that can be used.
    """
    role: Role = "device"
    if (path / "cloud" / MANIFEST_FILE).is_file():
        role = "cloud"
    elif (path / MANIFEST_FILE).is_file():
        role = read_manifest(path).role
    bundle = load_bundle(path, role)
    return KnownMiddle(bundle.path, bundle.manifest, bundle if role == "cloud" else None)


def _is_whole(tensor: SourceTensor, target: str) -> bool:
    """Whether another number format holds every number of a tensor as it is."""
    if tensor.dtype == target:
        return True
    return all(
        cast(cast(piece, tensor.dtype, target, tensor.name), target, tensor.dtype, tensor.name)
        == piece
        for piece in tensor.pieces()
    )
