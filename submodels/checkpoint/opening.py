"""A model's files opened as a checkpoint, whatever form they have."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from submodels.checkpoint.checkpoint import Checkpoint, open_checkpoint
from submodels.checkpoint.other_forms import ADAPTER_CONFIG_FILE, is_adapter, refuse_other_forms
from submodels.errors import CheckpointError


@contextmanager
def opened_checkpoint(path: Path, base: str | None = None) -> Iterator[Checkpoint]:
    """The checkpoint in a folder or in a GGUF file, or an adapter merged into its base model.

    What other tools have quantised is dequantised while it is read.

    The small files that a GGUF file stands for lie in a temporary folder until the body ends.
    `base`: the model to merge an adapter into; None: the one that it names.

    Raises:
        UnsupportedModelError: something that is refused by name.
        CheckpointError: files that are missing, cut short, or corrupt.
    """
    if path.is_dir() and (base is not None or is_adapter(path)):
        with _adapter(path, base) as checkpoint:
            yield checkpoint
    elif base is not None:
        raise CheckpointError(f"--base: {path} is no folder with an adapter of PEFT")
    else:
        with _model(path) as checkpoint:
            yield checkpoint


@contextmanager
def _model(path: Path) -> Iterator[Checkpoint]:
    if path.is_dir():
        from submodels.checkpoint.quantised.opening import dequantised

        refuse_other_forms(path)
        yield dequantised(open_checkpoint(path))
        return
    from submodels.checkpoint.gguf.opening import open_gguf

    with TemporaryDirectory(prefix="hat-gguf-") as folder:
        yield open_gguf(path, Path(folder))


@contextmanager
def _adapter(path: Path, base: str | None) -> Iterator[Checkpoint]:
    from submodels.checkpoint.lora.opening import base_of, opened_adapter

    if not (path / ADAPTER_CONFIG_FILE).is_file():
        raise CheckpointError(f"--base: {path} has no {ADAPTER_CONFIG_FILE}, so it is no adapter")
    model = base_of(path, base)
    if model.is_dir() and is_adapter(model):
        raise CheckpointError(f"the base model of {path} is an adapter itself: {model}")
    with _model(model) as opened, opened_adapter(path, opened) as checkpoint:
        yield checkpoint
