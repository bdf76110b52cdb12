"""Errors of splitting and of reading bundles: the type says which of the two is at fault."""

from process.errors import UserError


class SplitError(UserError):
    """This model cannot be split as asked; the message says what was expected and what came."""


class UnsupportedModelError(SplitError):
    """The model's configuration asks for something that is refused by name."""


class CheckpointError(SplitError):
    """The checkpoint on disk is missing, incomplete or corrupt."""


class OtherMiddleError(SplitError):
    """The model's middle layers are not the ones asked for; `details` has a line for each tensor
    that differs, in the order of the model."""

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.details = details


class BundleError(UserError):
    """A bundle is missing, incomplete, corrupt, of the other role, or of a newer format."""
