"""The model that comes with hat, and its adapter."""

from pathlib import Path

from hat.errors import CommandError

NAME = "stories260k"


def default_model() -> Path:
    """The folder of the shipped model: in the installed package, or in the repository.

    Raises:
        CommandError: this installation came without it.
    """
    for models in _model_folders():
        if (models / NAME / "config.json").is_file():
            return models / NAME
    raise CommandError("the small model is not part of this installation; name one: hat up MODEL")


def shipped_adapter() -> Path | None:
    """The folder of that model's drafting adapter, if this installation came with it."""
    for models in _model_folders():
        if (models / f"{NAME}-adapter" / "adapter.json").is_file():
            return models / f"{NAME}-adapter"
    return None


def _model_folders() -> tuple[Path, Path]:
    """In the installed package, and in the repository."""
    package = Path(__file__).resolve().parent
    return package / "models", package.parent / "models"
