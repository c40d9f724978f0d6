"""`python -m ledger.testing`, for tests in other languages."""

import signal
import subprocess
import sys

import grpc

from ledger.v1 import ledger_pb2, ledger_pb2_grpc


def test_it_prints_its_address_and_serves_until_it_is_ended() -> None:
    """One line, then nothing; SIGTERM is an orderly end."""
    with subprocess.Popen(
        [sys.executable, "-m", "ledger.testing", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with grpc.insecure_channel(address) as channel:
            listed = ledger_pb2_grpc.LedgerServiceStub(channel).ListRestaurants(
                ledger_pb2.ListRestaurantsRequest()
            )
        assert not listed.restaurants
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
        assert process.wait(30) == 0
