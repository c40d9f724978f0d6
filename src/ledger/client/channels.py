"""How the client is connected: deadlines, retries, sizes and pings of its channels."""

import os
from pathlib import Path

from ledger.addresses import is_address
from ledger.limits import MESSAGE_BYTES_MAX
from ledger.v1 import ledger_pb2

# Servers end connections that ping more often than every 10 s.
KEEPALIVE_SECONDS = 30
KEEPALIVE_TIMEOUT_SECONDS = 10
# gRPC would wait up to two minutes between two attempts to connect, long after a server is back.
RECONNECT_SECONDS_MIN, RECONNECT_SECONDS_MAX = 0.2, 5.0

Option = tuple[str, str | int]


def channel_options() -> list[Option]:
    """The options of a channel: what the contract recommends."""
    return [
        (
            "grpc.service_config",
            # By its path: importlib.resources would take a command 9 ms.
            Path(ledger_pb2.__file__).with_name("service_config.json").read_text(encoding="utf-8"),
        ),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        # A larger message is never retried, whatever the policy says. The default is 256 KiB, and a
        # batch may be larger.
        ("grpc.per_rpc_retry_buffer_size", MESSAGE_BYTES_MAX),
        # A proxy in the user's environment leads to the web; the ledger is in the internal network.
        ("grpc.enable_http_proxy", 0),
        # Finds out that a connection is dead, also one without calls.
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", int(RECONNECT_SECONDS_MIN * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(RECONNECT_SECONDS_MAX * 1000)),
    ]


def check_address(address: str) -> None:
    """Raises ValueError if it is not host:port or unix:path."""
    if not is_address(address):
        raise ValueError(f"{address!r} is no address of a server: write host:port or unix:path")


class Forks:
    """Counts how often this process came out of a fork: gRPC does not survive one."""

    count = 0

    @classmethod
    def _count_one(cls) -> None:
        cls.count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Forks._count_one)


class ClosedError(RuntimeError):
    """A client that is used after it was closed, or in a process that was forked from its own."""


class Usable:
    """Whether a client may still be used."""

    def __init__(self) -> None:
        self._forks = Forks.count
        self.is_closed = False

    def begin(self) -> None:
        """Marks the opening of the channel. Raises ClosedError if the client is closed."""
        if self.is_closed:
            raise ClosedError("this client is closed")
        self._forks = Forks.count

    def check(self) -> None:
        """Raises ClosedError if the client is closed, or was made before a fork."""
        if self._forks != Forks.count:
            raise ClosedError(
                "this client was made before the process was forked, which gRPC does not survive:"
                " make a client in each process"
            )
        if self.is_closed:
            raise ClosedError("this client is closed")
