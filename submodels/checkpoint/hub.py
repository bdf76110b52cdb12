"""Where a model's files are: a folder, a GGUF file, or in a repository of a model hub."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from submodels.checkpoint.checkpoint import INDEX_FILE, SINGLE_FILE
from submodels.checkpoint.gguf.names import SUFFIX, is_gguf, model_stem, part_paths
from submodels.errors import CheckpointError

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_WANTED_FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "*.model")
# Other formats of the same weights, and anything in subfolders.
_UNWANTED_FILES = ("*/*", "consolidated*")

# As llama.cpp and Ollama write them: `owner/name/FILE.gguf`, and `owner/name:Q4_K_M`.
_HUB_HOST = re.compile(r"^(https://)?(hf\.co|huggingface\.co)/")
_HUB_GGUF = re.compile(
    r"(?P<hub_id>[\w][\w.-]*/[\w][\w.-]*)(/(?P<file>[\w./ -]+\.gguf)|:(?P<kind>[\w.-]+))"
)
# Files beside the model that see pictures for it.
_PROJECTOR = "mmproj"


def resolve_model(model: str) -> Path:
    """The folder or GGUF file of a model: one that exists, or a download from a hub.

    `org/name` is a repository with a checkpoint, `org/name/FILE.gguf` one of its GGUF files, and
    `org/name:Q4_K_M` the one of that quantisation. Of a model in several files the path is that of
    the first. The hub's own settings hold (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN ...).

    Raises:
        CheckpointError: neither a folder nor a file nor a hub id that can be had.
    """
    path = Path(model).expanduser()
    if model and path.is_dir():
        return _gguf_alone(path) or path
    if path.is_file() and is_gguf(path):
        return path
    match = _HUB_GGUF.fullmatch(_HUB_HOST.sub("", model, count=1))
    if match is not None and not path.exists():
        return _hub_gguf(match["hub_id"], match["file"], match["kind"])
    if path.exists() or not _HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"{model}: expected a folder with a checkpoint, a GGUF file, or a hub id"
        )
    return _snapshot(model, _WANTED_FILES, _UNWANTED_FILES)


def resolve_folder(name: str, wanted: Sequence[str], expected: str) -> Path:
    """A folder that exists, or the files of these patterns from a repository of a hub.

    `expected` says in a refusal what the name should have been.

    Raises:
        CheckpointError: neither a folder nor a hub id that can be had.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if path.exists() or not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: expected {expected}, or a hub id")
    return _snapshot(name, wanted, _UNWANTED_FILES)


def model_name(model: str) -> str:
    """What the model is called: its hub id, or the name of its folder or GGUF file."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve().name
    return model_stem(path) if path.is_file() else model


def _gguf_alone(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds nothing else of a model.

    Raises:
        CheckpointError: it holds several models.
    """
    if any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        return None
    found = _first_files(folder.glob(f"*{SUFFIX}"))
    if len(found) > 1:
        listed = ", ".join(path.name for path in found[:5])
        raise CheckpointError(f"{folder} holds {len(found)} GGUF models; name one: {listed}")
    return found[0] if found else None


def _first_files(paths: Iterable[Path]) -> list[Path]:
    """The first file of each model, in the order of their names."""
    models = {part_paths(path)[0] for path in paths if not path.name.startswith(_PROJECTOR)}
    return sorted(models)


def _hub_gguf(hub_id: str, file: str | None, kind: str | None) -> Path:
    """One GGUF model of a hub's repository, all its parts.

    Raises:
        CheckpointError: it cannot be had, or the quantisation fits none or several.
    """
    if file is not None:
        wanted = [str(path) for path in part_paths(Path(file))]
        path = _snapshot(hub_id, wanted, ()) / wanted[0]
        if not path.is_file():
            raise CheckpointError(f"{hub_id} has no file {file}")
        return path
    assert kind is not None
    folder = _snapshot(hub_id, _patterns(kind), (f"*{_PROJECTOR}*",))
    of_kind = re.compile(rf"(.*[-._])?{re.escape(kind)}", re.IGNORECASE)
    found = [
        path
        for path in _first_files(folder.rglob(f"*{SUFFIX}"))
        if of_kind.fullmatch(model_stem(path))
    ]
    if len(found) != 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in found[:5]) or "none"
        raise CheckpointError(
            f"{hub_id}: expected one GGUF model of the quantisation {kind}, found {listed}"
        )
    return found[0]


def _patterns(kind: str) -> list[str]:
    """What names of files of a quantisation look like, whole and in parts, in either case."""
    return [
        f"{begin}{text}{end}{SUFFIX}"
        for text in sorted({kind, kind.upper(), kind.lower()})
        for begin in ("", "*[-._]")
        for end in ("", "-*-of-*")
    ]


def _snapshot(hub_id: str, wanted: Sequence[str], unwanted: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"{hub_id}: no such folder, and huggingface_hub is not installed to download it"
        ) from error
    try:
        return Path(
            snapshot_download(
                hub_id,
                allow_patterns=list(wanted),
                ignore_patterns=list(unwanted),
            )
        )
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{hub_id}: no such folder, not in the local hub cache, and the hub cannot be "
            "reached (offline?)"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()
        detail = reason[0] if reason else type(error).__name__
        raise CheckpointError(f"{hub_id}: no such folder, and the hub says: {detail}") from error
