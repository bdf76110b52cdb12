"""Errors as aiohttp raises them when a link is opened."""

import aiohttp
from multidict import CIMultiDict
from yarl import URL


def connection_key() -> aiohttp.client_reqrep.ConnectionKey:
    """Of a connection that was asked for."""
    return aiohttp.client_reqrep.ConnectionKey("cloud", 7700, True, None, None, None, None)


def request_info() -> aiohttp.RequestInfo:
    """Of the request that asked for an upgrade."""
    return aiohttp.RequestInfo(URL("ws://cloud"), "GET", CIMultiDict(), URL("ws://cloud"))


def handshake_error(status: int) -> aiohttp.WSServerHandshakeError:
    """The answer to it had this status."""
    return aiohttp.WSServerHandshakeError(request_info(), (), status=status)


def nobody_there() -> aiohttp.ClientConnectorError:
    """Nobody listens at the address."""
    return aiohttp.ClientConnectorError(connection_key(), ConnectionRefusedError(111, "refused"))
