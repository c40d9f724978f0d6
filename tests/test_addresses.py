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
def test_address_is_divided_into_host_and_port(address: str, host: str, port: int) -> None:
    """The brackets around an IPv6 address are not part of the host."""
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
def test_port_of_an_address_is_replaced(address: str, expected: str) -> None:
    """An address without a port stays as it is."""
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
def test_client_of_this_machine_calls_the_loopback_address(address: str, expected: str) -> None:
    """If the server listens at every address. Other addresses stay as they are."""
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
def test_port_has_16_bits(address: str, expected: bool) -> None:
    """An address without a port is in range."""
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
def test_address_is_within_this_machine_or_not(address: str, expected: bool) -> None:
    """A name is not, except localhost: it may mean any machine."""
    assert is_within_this_machine(address) is expected
