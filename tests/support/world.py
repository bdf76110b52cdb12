"""The time and chance of tests that run on real sockets."""

import random
import time

from process.world import World

REAL = World(time.monotonic, time.time, random.SystemRandom())
