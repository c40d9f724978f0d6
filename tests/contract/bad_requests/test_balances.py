"""Balance queries that are refused, and balances at the limits of the contract."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from support.bad_requests import (
    AMOUNT_CAP,
    BAD_INSTANTS,
    YEAR_1,
    Case,
    Cases,
    assert_nothing_internal,
    assert_refused,
    assert_serving,
    balance_request,
    groups,
    in_an_hour,
    refusal,
)
from support.events import event_message, unique
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2


def bad_balance_queries() -> Iterator[tuple[str, Case]]:
    """Requests for balances that the server refuses."""
    for name, (seconds, nanos) in BAD_INSTANTS.items():
        yield (
            name,
            Case(
                "GetBalance",
                balance_request(as_of=Timestamp(seconds=seconds, nanos=nanos)),
                fields=("as_of",),
            ),
        )
    yield (
        "in-an-hour",
        Case("GetBalance", lambda: balance_request(as_of=in_an_hour()), fields=("as_of",)),
    )
    yield (
        "unknown-restaurant",
        Case(
            "GetBalance",
            balance_request(restaurant_id="unregistered"),
            grpc.StatusCode.NOT_FOUND,
            "RESTAURANT_NOT_FOUND",
        ),
    )
    yield "empty", Case("GetBalance", b"", fields=("restaurant_id", "currency"))


async def test_balance_beyond_int64_is_refused_and_events_are_still_booked(
    ledger: RunningLedger,
) -> None:
    """The amounts, inserted by SQL, are those of some ten million events at the cap."""
    await ledger.ingest(event_message(restaurant_id="whale", amount_minor=AMOUNT_CAP))
    await ledger.query(
        """INSERT INTO ledger_entries
             (balance_account_id, transaction_id, position, entry_type, debit_account,
              credit_account, amount_minor, available_at, occurred_at, event_id)
           SELECT e.balance_account_id, gen_random_uuid(), e.position, e.entry_type,
                  e.debit_account, e.credit_account, 9000000000000000000, e.available_at,
                  e.occurred_at, 'whale_' || n
           FROM ledger_entries AS e CROSS JOIN generate_series(1, 2) AS n"""
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await ledger.balance("whale")
    got = refusal(caught.value)
    assert (got.code, got.reason) == (grpc.StatusCode.OUT_OF_RANGE, "AMOUNT_OUT_OF_RANGE")
    assert_nothing_internal(got.everything)
    (result,) = await ledger.ingest(event_message(restaurant_id="whale"))
    assert result.status == ledger_pb2.INGEST_STATUS_CREATED
    await assert_serving(ledger)


@pytest.mark.both_servers
async def test_balance_long_before_the_first_entry_is_zero(shared_ledger: RunningLedger) -> None:
    """The balance is as of the requested instant, down to the year 1, and has no latest event."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    for seconds, nanos in ((YEAR_1, 0), (YEAR_1, 999), (-1, 999_999_999), (0, 0), (1, 1)):
        as_of = Timestamp(seconds=seconds, nanos=nanos)
        request = ledger_pb2.GetBalanceRequest(
            restaurant_id=restaurant_id, currency="PEN", as_of=as_of
        )
        balance = await shared_ledger.stub.GetBalance(request)
        assert (
            balance.available_minor,
            balance.pending_minor,
            balance.reserved_minor,
            balance.disputed_minor,
        ) == (0, 0, 0, 0)
        assert not balance.HasField("last_event_at")
        assert (balance.as_of.seconds, balance.as_of.nanos) == (seconds, nanos // 1000 * 1000)


@pytest.mark.both_servers
async def test_balance_of_a_known_restaurant_without_entries_is_zero(
    shared_ledger: RunningLedger,
) -> None:
    """In any currency: it is enough that the restaurant is registered."""
    restaurant_id = unique("res")
    await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id)
    )
    balance = await shared_ledger.balance(restaurant_id, "JPY")
    assert (
        balance.available_minor,
        balance.pending_minor,
        balance.reserved_minor,
        balance.disputed_minor,
    ) == (0, 0, 0, 0)
    assert not balance.HasField("last_event_at")


@pytest.mark.both_servers
@pytest.mark.parametrize("cases", groups(bad_balance_queries()))
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)
