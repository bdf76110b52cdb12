"""How a listening socket takes its port."""

import socket


def keep_to_oneself(listener: socket.socket) -> None:
    """Have the port while this program runs, also where connections of an earlier one still close.

    On Windows SO_REUSEADDR means that another program may take the same port, and its connections.

    Source: Microsoft, "Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE".
    """
    alone = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
    listener.setsockopt(socket.SOL_SOCKET, alone or socket.SO_REUSEADDR, 1)
