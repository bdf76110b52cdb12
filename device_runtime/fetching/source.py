"""From a device's settings to what fetches its bundle."""

import os

from device_runtime.config import DeviceConfig
from device_runtime.fetching.cloud_files import CloudAddress
from device_runtime.fetching.fetching import Fetcher, Show
from device_runtime.fetching.store import Store
from device_runtime.link.config import client_certificate, link_url
from device_runtime.link.proxies import proxy_for
from device_runtime.link.trust import DialedTls
from process.machine import cache_folder
from process.world import World

_FOLDER = "bundles"


def make_fetcher(config: DeviceConfig, world: World, show: Show | None = None) -> Fetcher:
    """What asks the cloud of these settings; the link trusts and reaches it in the same way.

    Raises:
        StartError: an address, CA file or proxy that cannot be used.
    """
    url = link_url(config.cloud)
    shown = client_certificate(config.cloud_client_cert, config.cloud_client_key)
    address = CloudAddress(
        url=config.cloud,
        secret=config.secret,
        tls=DialedTls(url, config.cloud_ca, config.cloud_pin, shown),
        proxy=proxy_for(url, os.environ),
    )
    store = Store(cache_folder(os.environ) / _FOLDER, config.kept_bundles)
    return Fetcher(address, store, config.bundle_key, world, show or _show_nothing)


def _show_nothing(num_bytes: int, total: int) -> None:
    """Nobody looks."""
