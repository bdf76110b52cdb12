"""Calls of tools in the answers of a request."""

from hashlib import blake2b

from device_runtime.calling.layouts import Layout
from device_runtime.calling.reader import CallReader
from device_runtime.calling.tools import Offer


def call_reader(layout: Layout, offer: Offer, request_id: str, index: int) -> CallReader:
    """What reads the calls of the choice of this index; ids are the request's own."""

    def make_id(number: int) -> str:
        name = f"{request_id}/{index}/{number}".encode()
        return layout.id_prefix + blake2b(name, digest_size=16).hexdigest()[: layout.id_digits]

    return CallReader(layout, offer, make_id)
