"""Where metrics are served."""

import socket
from contextlib import closing

import pytest

from ledger.api.transport.listening import AddressUnavailable
from ledger.metrics import served_metrics
from ledger.settings import Settings


def test_metrics_address_that_is_taken_is_refused() -> None:
    """The error names the address."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = Settings(_env_file=None, metrics_address=address)
        with (
            pytest.raises(AddressUnavailable, match=f"cannot serve the metrics at {address}"),
            served_metrics(settings),
        ):
            pass
