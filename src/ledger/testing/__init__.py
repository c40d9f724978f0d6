"""A server in memory for the tests of those who call the ledger."""

from ledger.testing.clock import MovableClock
from ledger.testing.faults import Fault
from ledger.testing.server import LedgerServer

__all__ = ["Fault", "LedgerServer", "MovableClock"]
