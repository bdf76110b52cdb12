"""The images' Dockerfiles, as tests read them."""

import re
from pathlib import Path

DOCKERFILES = sorted((Path(__file__).resolve().parents[2] / "deploy").glob("Dockerfile.*"))


def instruction(path: Path, name: str) -> str:
    """The last one of this name, lines joined."""
    joined = re.sub(r"\\\n\s*", "", path.read_text())
    found: list[str] = re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)
    return found[-1]
