"""Ports that are known before anybody listens there, and while nobody does."""

import socket


def held_port() -> socket.socket:
    """A socket that has a free port of 127.0.0.1 until it is closed: others are not given it, and
    calls to it are refused.

    It never listens, so that whoever knows the port may, again and again.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def port_of(holder: socket.socket) -> int:
    port: int = holder.getsockname()[1]
    return port
