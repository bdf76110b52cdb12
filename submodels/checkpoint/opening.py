"""A model's files opened as a checkpoint, whatever form they have."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from submodels.checkpoint.checkpoint import Checkpoint, open_checkpoint


@contextmanager
def opened_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """The checkpoint in a folder or in a GGUF file.

    The small files that a GGUF file stands for lie in a temporary folder until the body ends.

    Raises:
        UnsupportedModelError: a GGUF file with something that is refused by name.
        CheckpointError: files that are missing, cut short, or corrupt.
    """
    if path.is_dir():
        yield open_checkpoint(path)
        return
    from submodels.checkpoint.gguf.opening import open_gguf

    with TemporaryDirectory(prefix="hat-gguf-") as folder:
        yield open_gguf(path, Path(folder))
