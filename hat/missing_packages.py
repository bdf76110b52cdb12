"""A package that an extra would have brought: one line that says which extra."""

from collections.abc import Iterator
from contextlib import contextmanager

from hat.errors import CommandError

_OWN_PACKAGES = frozenset(
    ("wire", "submodels", "chunking", "adapters", "device_runtime", "cloud_server", "bench", "hat")
)


@contextmanager
def extra_installed(extra: str) -> Iterator[None]:
    """Imports in the body may need the packages of `extra`.

    Raises:
        CommandError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in _OWN_PACKAGES:
            raise
        message = f"this needs the package {package}: pip install 'hat-serving[{extra}]'"
        raise CommandError(message) from error
