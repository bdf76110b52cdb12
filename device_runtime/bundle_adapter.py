"""The drafting adapter that a device bundle brings."""

from adapters.storage import CARD_FILE, AdapterError, StoredAdapter, load_adapter
from device_runtime.engine import DraftLimits
from submodels.bundle import Bundle
from submodels.errors import BundleError


def stored_adapter(bundle: Bundle) -> StoredAdapter | None:
    """The bundle's adapter; None when it has none.

    Raises:
        BundleError: it has one that is corrupt, or for another model or split.
    """
    if CARD_FILE not in bundle.manifest.files:
        return None
    try:
        return load_adapter(bundle.path, bundle.manifest)
    except AdapterError as error:
        raise BundleError(str(error)) from error


def draft_limits(stored: StoredAdapter) -> DraftLimits:
    """Where drafts of this adapter end, as calibrated when it was trained."""
    return DraftLimits(stored.card.stop_threshold, stored.card.max_draft_tokens)
