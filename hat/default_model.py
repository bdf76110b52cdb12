"""The model that comes with hat."""

from pathlib import Path

from hat.errors import CommandError

NAME = "stories260k"


def default_model() -> Path:
    """The folder of the shipped model: in the installed package, or in the repository.

    Raises:
        CommandError: this installation came without it.
    """
    package = Path(__file__).resolve().parent
    for models in (package / "models", package.parent / "models"):
        if (models / NAME / "config.json").is_file():
            return models / NAME
    raise CommandError("the small model is not part of this installation; name one: hat up MODEL")
