"""The model that comes with hat, and where adapters lie."""

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


def adapter_folders(model: Path) -> tuple[Path, ...]:
    """Where an adapter for the model in `model` may lie: beside it as MODEL-adapter, or shipped."""
    return _companions(model, "adapter")


def heads_folders(model: Path) -> tuple[Path, ...]:
    """Where Medusa heads for the model may lie: beside it as MODEL-medusa, or in the repository."""
    return _companions(model, "medusa")


def _companions(model: Path, kind: str) -> tuple[Path, ...]:
    model = model.resolve()
    beside = model.parent / f"{model.name}-{kind}"
    shipped = [models / f"{NAME}-{kind}" for models in _model_folders()]
    found = [folder for folder in (beside, *shipped) if (folder / f"{kind}.json").is_file()]
    return tuple(dict.fromkeys(found))


def _model_folders() -> tuple[Path, Path]:
    """In the installed package, and in the repository."""
    package = Path(__file__).resolve().parent
    return package / "models", package.parent / "models"
