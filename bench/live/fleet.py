"""The programs of an arm: which are started where, with which flags, on which cores."""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.arms import Arm
from bench.link.shaped_link import ShapedLink
from bench.live.cloud import Cloud
from bench.live.processes import Child, Command, first_of
from process.program.exposure import is_loopback

_START_S = 120.0

_CHILD = (sys.executable, "-m", "hat.child")
"""A `hat` command that ends when the process that started it does."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Processor cores of the cloud's machine and of the devices'; both empty: not told apart."""

    cloud: frozenset[int] = frozenset()
    device: frozenset[int] = frozenset()

    @property
    def note(self) -> str:
        """What to remember of it beside the results."""
        if not self.cloud:
            return "cloud and devices share the machine's processor cores"
        names = [",".join(map(str, sorted(cores))) for cores in (self.cloud, self.device)]
        return (
            f"one machine plays both ends: the cloud has processor core {names[0]}, "
            f"devices and their client have {names[1]}, the link's relay may use any"
        )


def shared_cores() -> Cores:
    """Half of this process's cores for each end, if there are two."""
    known = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(known) < 2:
        return Cores()
    half = len(known) // 2
    return Cores(frozenset(known[:half]), frozenset(known[half:]))


@dataclass(frozen=True, slots=True)
class Devices:
    """An arm's running device programs; `urls` are those of the users' programs, by device."""

    urls: tuple[str, ...]
    clouds: tuple[Cloud, ...]
    children: tuple[Child, ...]


class Fleet:
    """All programs at the ends of one setting's links, one link per device.

    `dtype` is the number format of the clouds and of the rows that cross. Clouds are started once
    for all arms with the same settings: loading takes them seconds, and one that nobody asks does
    nothing. Devices are started anew, so that each knows nothing of link and cloud. An arm that is
    among `device_bundles` has its device's bundle there. `close` ends everything.
    """

    def __init__(
        self,
        bundles: Path,
        links: Sequence[ShapedLink],
        cores: Cores,
        dtype: str = "auto",
        device_bundles: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        self._bundles = bundles
        self._device_bundles = device_bundles
        self._dtype = dtype
        self._links = links
        self._cores = cores
        self._clouds: dict[str, Cloud] = {}
        self._children: list[Child] = []

    async def start(self, arm: Arm) -> Devices:
        """Start an arm's devices, and its cloud if no arm before has.

        Raises:
            LiveError: a program did not start.
        """
        links = self._links
        match arm.where:
            case "split":
                cloud = await self._cloud(arm, links[0], at_device=None)
                places = [(link, f"{link.cloud_host}:{link.forward(cloud.port)}") for link in links]
                started = [await self._device(arm, *place) for place in places]
                urls = [f"http://127.0.0.1:{port}" for port, _ in started]
                clouds = [cloud]
            case "cloud":
                cloud = await self._cloud(arm, links[0], at_device=None)
                started = [await self._device_in_cloud(arm, cloud)]
                port = started[0][0]
                urls = [f"http://{link.cloud_host}:{link.forward(port)}" for link in links]
                clouds = [cloud]
            case "device":
                clouds = [await self._cloud(arm, link, at_device=n) for n, link in enumerate(links)]
                started = [
                    await self._device(arm, link, f"127.0.0.1:{cloud.port}")
                    for link, cloud in zip(links, clouds, strict=True)
                ]
                urls = [f"http://127.0.0.1:{port}" for port, _ in started]
        return Devices(tuple(urls), tuple(clouds), tuple(child for _, child in started))

    async def start_cloud(self, arm: Arm) -> Cloud:
        """An arm's cloud alone, at its end of the first link.

        Raises:
            LiveError: it did not start.
        """
        return await self._cloud(arm, self._links[0], at_device=None)

    def cloud_url(self, cloud: Cloud) -> str:
        """Where the first device's end of its link finds a cloud at the other end."""
        link = self._links[0]
        return f"ws://{link.cloud_host}:{link.forward(cloud.port)}"

    async def start_client(self, device: int, command: Sequence[str], child_take: Any) -> Child:
        """A user's program at a device's end."""
        argv = self._links[device].device_command(command)
        return await self._start(
            Command(f"client {device}", argv, self._cores.device, _environ(1), True), child_take
        )

    async def close(self) -> None:
        """End every program that still runs, devices before clouds."""
        for child in reversed(self._children):
            await child.stop()
        self._children.clear()

    async def forget(self, children: Sequence[Child]) -> None:
        """End some programs."""
        await asyncio.gather(*(child.stop() for child in children))
        self._children = [child for child in self._children if child not in children]

    async def _cloud(self, arm: Arm, link: ShapedLink, at_device: int | None) -> Cloud:
        """The cloud with this arm's settings, at the cloud's end or at a device's."""
        key = repr((at_device, sorted(arm.cloud.items())))
        if key in self._clouds:
            return self._clouds[key]
        cloud = Cloud(_free_port())
        in_cloud = at_device is None
        cores = self._cores.cloud if in_cloud else self._cores.device
        num_threads = max(1, len(cores))
        flags = {
            "host": link.bind_host if in_cloud else "127.0.0.1",
            "port": cloud.port,
            "device": "auto" if in_cloud else "cpu",
            "threads": num_threads,
            "dtype": self._dtype,
            "wire_dtype": self._dtype,
            "log_level": "debug",
            "log_format": "json",
            "insecure": not is_loopback(link.bind_host),
            **arm.cloud,
        }
        argv = [*_CHILD, "cloud", str(self._bundles / "cloud"), *_flags(flags)]
        argv = link.cloud_command(argv) if in_cloud else link.device_command(argv)
        command = Command("the cloud", argv, cores, _environ(num_threads))
        cloud.child = await self._start(command, cloud.take)
        await first_of(cloud.child, cloud.ready, _START_S, "ready")
        self._clouds[key] = cloud
        return cloud

    async def _device(self, arm: Arm, link: ShapedLink, cloud: str) -> tuple[int, Child]:
        port = _free_port()
        flags = {
            **_device_flags(arm),
            "port": port,
            "cloud": f"ws://{cloud}",
            "insecure": not is_loopback(link.cloud_host),
        }
        argv = link.device_command([*_CHILD, "device", self._device_bundle(arm), *_flags(flags)])
        command = Command("a device", argv, self._cores.device, _environ(1))
        return port, await self._start(command)

    async def _device_in_cloud(self, arm: Arm, cloud: Cloud) -> tuple[int, Child]:
        """One endpoint for all users, beside the cloud."""
        port, link = _free_port(), self._links[0]
        flags = {
            **_device_flags(arm),
            "host": link.bind_host,
            "port": port,
            "cloud": f"ws://127.0.0.1:{cloud.port}",
            "max_num_seqs": max(16, len(self._links)),
        }
        argv = link.cloud_command([*_CHILD, "device", self._device_bundle(arm), *_flags(flags)])
        command = Command("the device in the cloud", argv, self._cores.cloud, _environ(1))
        return port, await self._start(command)

    def _device_bundle(self, arm: Arm) -> str:
        return str(self._device_bundles.get(arm.name, self._bundles / "device"))

    async def _start(self, command: Command, take: Any = lambda line: None) -> Child:
        child = await Child.start(command, take)
        self._children.append(child)
        return child


def _device_flags(arm: Arm) -> dict[str, Any]:
    """What every device gets. Kept sessions would spare a repeated prompt its prefill; greedy
    is to mean greedy, without a model's own penalties.
    """
    return {
        "host": "127.0.0.1",
        "threads": 1,
        "kept_sessions": 0,
        "generation_config": "none",
        "log_level": "warning",
        **arm.device,
    }


def _flags(settings: Mapping[str, Any]) -> list[str]:
    named = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    return [
        name if value is True else f"{name}={value}"
        for name, value in named.items()
        if value is not False
    ]


def _environ(num_threads: int) -> dict[str, str]:
    """This process's environment without the user's settings of hat, which arms must not have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HAT_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(num_threads)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
