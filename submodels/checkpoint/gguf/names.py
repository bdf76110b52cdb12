"""How GGUF files are called, by themselves and in parts. Needs no gguf package."""

import re
from pathlib import Path

SUFFIX = ".gguf"

# As `llama-gguf-split` names them.
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def is_gguf(path: Path) -> bool:
    """Whether a file is called like one."""
    return path.suffix.lower() == SUFFIX


def part_paths(path: Path) -> tuple[Path, ...]:
    """All files of the model that `path` is, or is a part of; whether they exist is not asked."""
    match = _PART.fullmatch(path.stem)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return (path,)
    stem, count = match["stem"], match["count"]
    return tuple(
        path.with_name(f"{stem}-{number:05}-of-{count}{path.suffix}")
        for number in range(1, int(count) + 1)
    )


def model_stem(path: Path) -> str:
    """What the model at a path is called: of a GGUF file without suffix and part number."""
    if not is_gguf(path):
        return path.name
    match = _PART.fullmatch(path.stem)
    return path.stem if match is None else match["stem"]
