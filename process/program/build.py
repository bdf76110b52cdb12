"""Which build runs here: its version and its commit, for metrics."""

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

COMMIT_VARIABLE = "HAT_COMMIT"
"""What an image says its commit is; it holds no repository."""

UNKNOWN = "unknown"

_PACKAGE = "hat-serving"
_DIGITS = 12


def built(environ: Mapping[str, str], root: Path) -> dict[str, str]:
    """Version and commit, `unknown` where nothing says so.

    The commit is that of the variable, else of the repository whose root this is. No program is run
    for it, and a repository that only lies around an installed package is not asked.
    """
    commit = environ.get(COMMIT_VARIABLE) or _commit_of(root / ".git") or UNKNOWN
    return {"version": _version(), "commit": commit[:_DIGITS]}


def built_here() -> dict[str, str]:
    """The same of this program."""
    return built(os.environ, Path(__file__).resolve().parents[2])


def _version() -> str:
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:
        return UNKNOWN


def _commit_of(git: Path) -> str | None:
    """What HEAD of a repository names; `git` is its folder, or a worktree's file that names one.

    Source: gitrepository-layout(5).
    """
    try:
        if git.is_file():
            git = git.parent / git.read_text().partition("gitdir:")[2].strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head or None
        name = head.partition(":")[2].strip()
        common = git / "commondir"
        folders = [git, git / common.read_text().strip()] if common.is_file() else [git]
        return next(filter(None, (_reference(folder, name) for folder in folders)), None)
    except (OSError, UnicodeDecodeError):
        return None


def _reference(git: Path, name: str) -> str | None:
    """A branch's commit, from its own file or from the packed ones."""
    if (git / name).is_file():
        return (git / name).read_text().strip() or None
    packed = git / "packed-refs"
    for line in packed.read_text().splitlines() if packed.is_file() else ():
        commit, _, of = line.partition(" ")
        if of == name:
            return commit
    return None
