"""Files of benchmarks that not every installation has."""

from pathlib import Path

from process.errors import UserError


class MissingDataError(UserError):
    """This installation is without the benchmarks' files; the message says where they are."""


def data_folder(path: Path) -> Path:
    """The folder, which is there.

    Raises:
        MissingDataError: it is not.
    """
    if not path.is_dir():
        raise MissingDataError(
            f"the benchmarks' {path.name} are not part of this installation ({path}); "
            "run this in a checkout of hat's sources: pip install -e '.[all]'"
        )
    return path
