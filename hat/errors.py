"""What a command reports as one line; what is no `UserError` is a bug and shows its trace."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from process.errors import UserError, system_reason

EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "torch": "cloud",
        "onnxruntime": "device",
        "tokenizers": "device",
        "jinja2": "device",
        "transformers": "split",
        "onnx": "split",
        "tqdm": "bench",
        "matplotlib": "bench",
    }
)
"""The extra that brings a package, for packages that not every installation has."""


class CommandError(UserError):
    """The command cannot go on. Exit code 1."""


def need_unix() -> None:
    """Return where a command can run that wants locks, signals and limits of Unix.

    Raises:
        CommandError: this is Windows.
    """
    if sys.platform == "win32":
        raise CommandError(
            "this command needs Linux or macOS; on Windows there are hat device, hat chat and hat "
            "status (docs/devices.md)"
        )


@contextmanager
def extras_explained() -> Iterator[None]:
    """Imports in the body may need packages of an extra.

    Raises:
        CommandError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        install = f"pip install 'hat-serving[{EXTRAS[package]}]'"
        raise CommandError(f"this needs the package {package}: {install}") from error


@contextmanager
def failures_explained() -> Iterator[None]:
    """As `extras_explained`; files that cannot be read or written are told in one line too."""
    try:
        with extras_explained():
            yield
    except OSError as error:
        what = "" if error.filename is None else f"{error.filename}: "
        raise CommandError(f"{what}{system_reason(error)}") from error
