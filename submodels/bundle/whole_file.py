"""Files of a bundle that are replaced as a whole."""

import contextlib
import os
from pathlib import Path


def replace_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever opens it finds all of the old bytes or all of the new.

    Others may write to its folder: what they have put where it is begun, such as a link to another
    file, is taken away and not followed.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as file:
            file.write(data)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
