"""Python's collector of reference cycles, which stops every thread while it looks."""

import gc
import logging

_log = logging.getLogger(__name__)


def leave_out_what_is_loaded() -> None:
    """Leave all objects that there are now out of later collections, but for what is garbage.

    Modules, models and tokenizers stay until the program ends. To look through them took 50 to
    500 ms on two cores every few hundred connections or requests, in which no step, token or frame
    went on. What an earlier call left out is looked through once more.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    _log.debug("%d objects are left out of garbage collection", gc.get_freeze_count())
