"""Limits on open calls and unread responses, and the log lines of refusals."""

from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from ledger.api.call_limits import CallLimits, OpenCalls, OpenCallsLimits
from ledger.api.errors import status_of
from ledger.api.methods import METHODS
from ledger.api.refusal_log import RefusalLog
from ledger.api.unread_responses import UnreadResponses
from ledger.errors import EventIdReused, NotAuthenticated, QueueFull, ScopeMissing
from ledger.observability import CALLER


def test_call_beyond_the_limit_is_refused_until_one_has_ended() -> None:
    """The limit has room again also when the open call ended with an exception."""
    limit = OpenCalls(1)
    with pytest.raises(KeyError), limit.admitted():
        with pytest.raises(QueueFull), limit.admitted():
            raise AssertionError("admitted")
        raise KeyError
    with limit.admitted():
        assert limit.calls == 1
    assert limit.calls == 0


def test_each_method_has_its_limit() -> None:
    """Streams have one, other calls share another; queues limit events, payments and balances."""
    limits = OpenCallsLimits(CallLimits(calls=1, streams=1))
    assert limits.of(METHODS["ListEntries"]) is limits.of(METHODS["RunPayouts"])
    assert limits.of(METHODS["ListEntries"]) is not limits.of(METHODS["StreamEvents"])
    assert limits.of(METHODS["StreamEvents"]) is not None
    for method in ("IngestEvent", "GetAccountBalance", "AuthorizePayment", "VoidPayment"):
        assert limits.of(METHODS[method]) is None
    assert limits.of(METHODS["GetPayment"]) is limits.of(METHODS["CreateAccount"]) is not None


class Ending:
    """A call of a connection that ends when the test says so."""

    def __init__(self, connection: str) -> None:
        self._connection = connection
        self._callbacks: list[Any] = []

    def peer(self) -> str:
        return self._connection

    def add_done_callback(self, callback: Any) -> None:
        self._callbacks.append(callback)

    def end(self) -> None:
        for callback in self._callbacks:
            callback(self)


def test_responses_are_refused_while_too_much_is_unread() -> None:
    """Responses that cannot be refused count too; the next call is refused before its request."""
    unread, calls = UnreadResponses(100), [Ending(f"connection {number}") for number in range(3)]
    contexts: list[Any] = list(calls)
    unread.keep(contexts[0], 60, is_refusable=True)
    with pytest.raises(QueueFull):
        unread.keep(contexts[1], 50, is_refusable=True)
    unread.check(contexts[1])
    unread.keep(contexts[1], 50, is_refusable=False)
    for context in contexts:
        with pytest.raises(QueueFull):
            unread.check(context)
    calls[0].end()
    calls[1].end()
    unread.keep(contexts[2], 200, is_refusable=True)
    calls[2].end()
    assert unread.size_bytes == 0


def test_caller_that_reads_no_responses_blocks_no_other() -> None:
    """Limits are for an identity over all its connections; without one, for the connection."""
    unread = UnreadResponses(100)
    contexts: list[Any] = [Ending("one"), Ending("another")]
    unread.keep(contexts[0], 50, is_refusable=True)
    with pytest.raises(QueueFull):
        unread.check(contexts[0])
    unread.check(contexts[1])
    unread.keep(contexts[1], 30, is_refusable=True)
    with pytest.raises(QueueFull):
        unread.keep(contexts[1], 21, is_refusable=True)
    named: list[Any] = [Ending("third"), Ending("fourth")]
    caller = CALLER.set("reports")
    try:
        unread.keep(named[0], 20, is_refusable=True)
        contexts[0].end()
        unread.keep(named[1], 30, is_refusable=True)
        with pytest.raises(QueueFull):
            unread.check(named[1])
    finally:
        CALLER.reset(caller)
    unread.check(named[1])


async def test_refusals_are_summed_up() -> None:
    """One line for the first of each kind and caller, and one with the number of the others."""
    with capture_logs() as lines:
        refusals = RefusalLog(structlog.get_logger("test").bind())
        for _ in range(1000):
            refusals.refused(QueueFull(), "RESOURCE_EXHAUSTED")
            refusals.refused(NotAuthenticated("no token"), "UNAUTHENTICATED")
            refusals.refused(NotAuthenticated("expired", identity="gateway"), "UNAUTHENTICATED")
            refusals.refused(EventIdReused("evt_1", ["amount_minor"]), "ALREADY_EXISTS")
        for scope in ("payout", "admin", "payout"):
            refusals.refused(ScopeMissing(scope), "PERMISSION_DENIED")
        refusals.report()
        refusals.report()
    logged = [line for line in lines if line["log_level"] != "debug"]
    assert [
        (line["log_level"], line["error"], line.get("why"), line.get("calls")) for line in logged
    ] == [
        ("warning", "QueueFull", None, None),
        ("warning", "NotAuthenticated", "no token", None),
        ("warning", "NotAuthenticated", "expired", None),
        ("info", "EventIdReused", None, None),
        ("warning", "ScopeMissing", "the scope payout is missing", None),
        ("warning", "ScopeMissing", "the scope admin is missing", None),
        ("warning", "QueueFull", None, 999),
        ("warning", "NotAuthenticated", "no token", 999),
        ("warning", "NotAuthenticated", "expired", 999),
        ("info", "EventIdReused", None, 999),
        ("warning", "ScopeMissing", "the scope payout is missing", 1),
    ]
    assert [line["identity"] for line in logged if line.get("why") == "expired"] == ["gateway"] * 2
    assert len(lines) - len(logged) == 4 * 999 + 1


def test_statuses_of_refusals_under_load_are_prepared() -> None:
    """A few statuses with different delays serve all refusals: making each would be too slow."""
    statuses = {
        id(status): status
        for status in (status_of(QueueFull(str(number))) for number in range(1000))
    }
    assert 1 < len(statuses) < 20
    assert len({status.SerializeToString() for status in statuses.values()}) == len(statuses)
