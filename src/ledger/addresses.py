"""Addresses of servers as people write them: host:port, [IPv6]:port, or unix:path."""

import ipaddress
import re

DEFAULT_ADDRESS = "127.0.0.1:50051"
# A URL with http:// is no address: gRPC would look up its whole text as a name.
ADDRESS_PATTERN = r"^(unix:.+|(dns:///)?[^/]+:[0-9]{1,5})$"
PORT_MAX = 65535
# Where a server listens at all addresses of its machine. They are not addresses that clients call.
_EVERY_ADDRESS = ("0.0.0.0", "::", "*")  # noqa: S104


def is_address(text: str) -> bool:
    """Whether it is host:port or unix:path."""
    return re.search(ADDRESS_PATTERN, text) is not None and has_port_in_range(text)


def has_port_in_range(address: str) -> bool:
    """Whether the port is at most PORT_MAX; true for an address without a port."""
    return not _has_port(address) or host_and_port(address)[1] <= PORT_MAX


def host_and_port(address: str) -> tuple[str, int]:
    """Splits host:port. The host has no brackets: "[::1]:50051" is ("::1", 50051)."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def with_port(address: str, port: int) -> str:
    """The address with another port, such as the port that was bound for port 0.

    An address without a port (unix:path, or empty) stays.
    """
    return f"{address.rpartition(':')[0]}:{port}" if _has_port(address) else address


def callable_address(address: str) -> str:
    """Where a client on this machine calls a server that listens at `address`."""
    if not _has_port(address):
        return address
    host, port = host_and_port(address)
    return f"127.0.0.1:{port}" if host in _EVERY_ADDRESS else address


def is_within_this_machine(address: str) -> bool:
    """Whether only this machine can call there: a loopback address or a unix socket."""
    if address.startswith("unix:"):
        return True
    host, _ = host_and_port(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # Any other name may mean another machine, today or tomorrow.
        return False


def _has_port(address: str) -> bool:
    return bool(address) and not address.startswith("unix:")
