"""The time and chance of tests, on real sockets or in virtual time."""

import asyncio
import random
import time
from contextlib import AbstractAsyncContextManager

import cloud_server.server
from cloud_server.config import CloudConfig
from cloud_server.daemon.daemon import Patience
from cloud_server.engines.loading import EngineLoader
from cloud_server.server import CloudServer
from process.world import World
from tests.support.event_loop import is_virtual

REAL = World(time.monotonic, time.time, random.SystemRandom())


def world_here() -> World:
    """The one of the running loop: the real one, or virtual time and a seed."""
    clock = asyncio.get_running_loop().time
    return World(clock, clock, random.Random(0)) if is_virtual() else REAL


def serve_cloud(
    config: CloudConfig,
    load_engine: EngineLoader | None = None,
    patience: Patience | None = None,
) -> AbstractAsyncContextManager[CloudServer]:
    """A cloud on the real clock."""
    return cloud_server.server.serve_cloud(
        config, REAL.clock, load_engine, patience, REAL.randomness, REAL.unix_clock
    )
