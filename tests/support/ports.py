"""Ports that a test knows before a server listens there, and after it has stopped."""

import socket


def held_port() -> socket.socket:
    """A socket that holds a free port of 127.0.0.1 until it is closed.

    The system assigns the port to no other program, and connections to it are refused. The socket
    never listens, so a server that is given the port can listen there, several times in turn.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


def port_of(holder: socket.socket) -> int:
    port: int = holder.getsockname()[1]
    return port
