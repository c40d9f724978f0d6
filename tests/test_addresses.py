"""Addresses of servers, as people write them."""

import pytest

from ledger.addresses import (
    callable_address,
    has_port_in_range,
    host_and_port,
    is_within_this_machine,
    with_port,
)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("[::1]:50051", "::1", 50051),
        ("ledger.internal:0", "ledger.internal", 0),
        (":9464", "", 9464),
    ],
)
def test_host_and_port(address: str, host: str, port: int) -> None:
    """The brackets of an IPv6 address belong to the address as it is written, not to the host."""
    assert host_and_port(address) == (host, port)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:0", "127.0.0.1:7"),
        ("[::1]:0", "[::1]:7"),
        ("unix:/run/ledger:0", "unix:/run/ledger:0"),
        ("", ""),
    ],
)
def test_with_port(address: str, expected: str) -> None:
    """Only an address with a port has another one."""
    assert with_port(address, 7) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("0.0.0.0:50051", "127.0.0.1:50051"),
        ("[::]:50051", "127.0.0.1:50051"),
        ("*:50051", "127.0.0.1:50051"),
        ("10.0.0.0:50051", "10.0.0.0:50051"),
        ("[::1]:50051", "[::1]:50051"),
        ("unix:/run/ledger", "unix:/run/ledger"),
    ],
)
def test_address_for_clients_of_this_machine(address: str, expected: str) -> None:
    """A server that listens everywhere is called at the loopback address."""
    assert callable_address(address) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("h:65535", True),
        ("h:65536", False),
        ("[::1]:65536", False),
        ("unix:/a:99999", True),
        ("", True),
    ],
)
def test_range_of_ports(address: str, expected: bool) -> None:
    """16 bits."""
    assert has_port_in_range(address) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/ledger", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.1.2.3:1", False),
        ("ledger.internal:1", False),
    ],
)
def test_addresses_within_this_machine(address: str, expected: bool) -> None:
    """A name may mean any machine, but for localhost."""
    assert is_within_this_machine(address) is expected
