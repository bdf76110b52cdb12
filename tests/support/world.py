"""The time and chance of tests that run on real sockets."""

import random
import time
from contextlib import AbstractAsyncContextManager

import cloud_server.server
from cloud_server.config import CloudConfig
from cloud_server.daemon.daemon import Patience
from cloud_server.engines.loading import EngineLoader
from cloud_server.server import CloudServer
from process.world import World

REAL = World(time.monotonic, time.time, random.SystemRandom())


def serve_cloud(
    config: CloudConfig,
    load_engine: EngineLoader | None = None,
    patience: Patience | None = None,
) -> AbstractAsyncContextManager[CloudServer]:
    """A cloud on the real clock."""
    return cloud_server.server.serve_cloud(config, REAL.clock, load_engine, patience)
