"""Where a model's files are: a folder, or a snapshot of a model hub's repository."""

import re
from pathlib import Path

from submodels.errors import CheckpointError

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_WANTED_FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "*.model")
# Other formats of the same weights, and anything in subfolders.
_UNWANTED_FILES = ("*/*", "consolidated*")


def resolve_model(model: str) -> Path:
    """The folder of a model: an existing one, or a download of a hub id such as `org/name`.

    The hub's own settings hold (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN ...).

    Raises:
        CheckpointError: neither a folder nor a hub id that can be had.
    """
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return folder
    if folder.exists() or not _HUB_ID.fullmatch(model):
        raise CheckpointError(f"{model}: expected a folder with a checkpoint, or a hub id")
    return _snapshot(model)


def model_name(model: str) -> str:
    """What the model is called: its hub id, or the name of its folder."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def _snapshot(hub_id: str) -> Path:
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
                allow_patterns=list(_WANTED_FILES),
                ignore_patterns=list(_UNWANTED_FILES),
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
