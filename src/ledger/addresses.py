"""The address of a server as people write it."""

import re

DEFAULT_ADDRESS = "127.0.0.1:50051"
# A URL with http:// is none: gRPC would look up its whole text as a name.
ADDRESS_PATTERN = r"^(unix:.+|(dns:///)?[^/]+:[0-9]{1,5})$"
PORT_MAX = 65535


def is_address(text: str) -> bool:
    """Whether it is host:port or unix:path."""
    return re.search(ADDRESS_PATTERN, text) is not None and has_port_in_range(text)


def has_port_in_range(address: str) -> bool:
    """Whether the port of a host is one; an address without host and port has none."""
    return not address or address.startswith("unix:") or int(address.rpartition(":")[2]) <= PORT_MAX
