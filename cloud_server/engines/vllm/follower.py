"""A machine that only computes: `hat cloud --node-rank 1` and up. Devices connect to machine 0."""

import logging
import signal
import sys
import threading
from types import FrameType

from cloud_server.config import CloudConfig
from cloud_server.engines.vllm.bundle import run_bundle_workers
from submodels.bundle.bundle import load_bundle

_log = logging.getLogger(__name__)

_PAUSE_S = 2.0
"""Before workers are started again: machine 0 has to notice that they are gone."""


def follow(config: CloudConfig) -> None:
    """Run this machine's workers, again whenever they end, until SIGTERM or SIGINT.

    They end when any worker of the engine does, on whichever machine: machine 0 then loads its
    own again, and all of them meet at `master_addr`.

    Raises:
        StartError: vLLM is missing, or it, the bundle and the settings do not go together.
        BundleError: there is no such bundle.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    bundle = load_bundle(config.bundle, "cloud", config.verify_weights)
    where = f"{config.master_addr}:{config.master_port}"
    while True:
        _log.info("machine %d of %d computes for %s", config.node_rank, config.nnodes, where)
        run_bundle_workers(bundle, config)
        _log.warning("the workers have ended; starting them again")
        threading.Event().wait(_PAUSE_S)


def _leave(number: int, frame: FrameType | None) -> None:
    _log.info("%s: stopped", signal.Signals(number).name)
    sys.exit(0)
