"""`python -m ledger.testing`, for tests in other languages."""

import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import grpc

from ledger.v1 import ledger_pb2, ledger_pb2_grpc


def test_it_prints_its_address_and_obeys_until_it_is_ended() -> None:
    """One line, and one for each command; SIGTERM is an orderly end."""
    with subprocess.Popen(
        [sys.executable, "-m", "ledger.testing", "--port", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with grpc.insecure_channel(address) as channel:
            listed = ledger_pb2_grpc.LedgerServiceStub(channel).ListRestaurants(
                ledger_pb2.ListRestaurantsRequest()
            )
        assert not listed.restaurants
        began_at = datetime.now(UTC)
        for command in ("advance 3600", "advance -1", "advance", "back 1"):
            process.stdin.write(f"{command}\n")
        process.stdin.flush()
        instant = datetime.fromisoformat(process.stdout.readline().strip())
        assert instant - began_at >= timedelta(hours=1)
        for _ in range(3):
            assert process.stdout.readline().startswith("error: ")
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
        assert process.wait(30) == 0
