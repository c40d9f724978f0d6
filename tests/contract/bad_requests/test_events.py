"""Events whose fields are wrong, at a limit, or unusual but valid."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from support.bad_requests import (
    AMOUNT_CAP,
    INT64_MAX,
    INT64_MIN,
    INVALID,
    MEBIBYTE,
    OK,
    PAYOUT_FAILED,
    PAYOUT_PAID,
    TOO_LARGE,
    YEAR_1,
    YEAR_2000,
    YEAR_9999,
    Case,
    Cases,
    accepted,
    assert_nothing_internal,
    assert_refused,
    bad_metadata,
    checked_details_of,
    counts,
    event_case,
    field,
    groups,
    ingest,
    instant_case,
    params,
    refusal,
    send,
    varint,
    without,
)
from support.events import OCCURRED_AT, event_message, timestamp, unique
from support.running import RunningLedger, running_ledger

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2
from ledger.v1.ledger_pb2 import EventType


def instant_accepted(seconds: int, nanos: int = 0) -> Case:
    """An event whose `occurred_at` is just allowed."""
    event = event_message()
    event.occurred_at.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
    return Case("IngestEvent", ingest(event), OK, None)


def bad_words_of_banks() -> Iterator[tuple[str, Case]]:
    """What a bank cannot say, and what it says where it does not belong."""
    for name, wrong in (
        ("bank_reference", ("a" * 256, "a\n", "\0", "ñ")),
        ("failure_code", ("a" * 65, "a b", "a\n", "ñ", "\0")),
        ("failure_text", ("a" * 501, "a\tb", "\0", "\x85")),
    ):
        for number, text in enumerate(wrong):
            yield (
                f"{name}-wrong-{number}",
                event_case(name, type=PAYOUT_FAILED, payout_id="po_1", **{name: text}),
            )
        yield f"{name}-of-a-charge", event_case(name, **{name: "a"})
    for name in ("failure_code", "failure_text"):
        yield (
            f"{name}-of-a-payment",
            event_case(name, type=PAYOUT_PAID, payout_id="po_1", **{name: "a"}),
        )
    yield (
        "reference-without-one",
        event_case(
            "bank_reference", type=ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED, payout_id="po_1"
        ),
    )


def bad_events() -> Iterator[tuple[str, Case]]:
    """Events whose fields have the right type and a wrong value."""
    required = ("event_id", "type", "restaurant_id", "currency", "amount_minor", "occurred_at")
    yield "no-event", Case("IngestEvent", b"", fields=("event",))
    yield (
        "empty-event",
        Case(
            "IngestEvent",
            ingest(ledger_pb2.ProcessorEvent()),
            fields=tuple(f"event.{name}" for name in required),
        ),
    )
    yield (
        "event_id-of-4-MiB",
        Case("IngestEvent", ingest(event_message(event_id="a" * 4 * MEBIBYTE)), TOO_LARGE, None),
    )
    for name in required:
        yield (
            f"{name}-unset",
            Case("IngestEvent", without(event_message(), name), fields=(f"event.{name}",)),
        )
    for number in (0, 77, -1, 2**31 - 1, -(2**31)):
        reason = "EVENT_TYPE_UNKNOWN" if number else "INVALID_REQUEST"
        yield f"type-{number}", replace(event_case("type", type=number), reason=reason)
    # 77 stands for a type of a later version. Its rules are unknown, so no other field is checked.
    alone = ledger_pb2.ProcessorEvent(type=77)  # type: ignore[arg-type]
    yield (
        "type-77-alone",
        Case("IngestEvent", ingest(alone), reason="EVENT_TYPE_UNKNOWN", fields=("event.type",)),
    )
    yield (
        "type-beyond-int32",
        Case(
            "IngestEvent",
            ingest(event_message(), appended=b"\x10" + varint(2**31)),
            reason="EVENT_TYPE_UNKNOWN",
            fields=("event.type",),
        ),
    )
    for amount in (0, -1, INT64_MIN, INT64_MAX, AMOUNT_CAP + 1, 2**53 + 1):
        yield f"amount-{amount}", event_case("amount_minor", amount_minor=amount)
    for fee in (-1, INT64_MIN, 10_001, INT64_MAX):
        yield f"fee-{fee}", event_case("fee_minor", amount_minor=10_000, fee_minor=fee)
    yield (
        "both-overflow",
        event_case("amount_minor", amount_minor=INT64_MAX, fee_minor=INT64_MAX),
    )
    yield (
        "both-negative",
        event_case("amount_minor", "fee_minor", amount_minor=INT64_MIN, fee_minor=INT64_MIN),
    )
    yield from bad_words_of_banks()
    for name in (
        "FEE_ASSESSED",
        "ADJUSTMENT_CREDITED",
        "ADJUSTMENT_DEBITED",
        "DISPUTE_WON",
        "DISPUTE_LOST",
        "REFUND_FAILED",
        "FEE_REFUNDED",
        "DISPUTE_FEE_REFUNDED",
        "PROCESSOR_FEE_ASSESSED",
        "PROCESSOR_FEE_REFUNDED",
        "TAX_WITHHELD",
        "TAX_WITHHOLDING_REVERSED",
        "RESERVE_HELD",
        "RESERVE_RELEASED",
        "TOP_UP_RECEIVED",
        "DEBT_WRITTEN_OFF",
    ):
        number = ledger_pb2.EventType.Value(f"EVENT_TYPE_{name}")
        yield f"fee-on-{name}", event_case("fee_minor", type=number, fee_minor=1)
        yield f"payout_id-on-{name}", event_case("payout_id", type=number, payout_id="po_1")
    for name, number in (("PAYOUT_PAID", PAYOUT_PAID), ("PAYOUT_FAILED", PAYOUT_FAILED)):
        yield (
            f"fee-on-{name}",
            event_case("fee_minor", type=number, payout_id="po_1", fee_minor=1),
        )
    for name in ("CHARGE_SUCCEEDED", "REFUND_SUCCEEDED", "DISPUTE_OPENED"):
        yield (
            f"payout_id-on-{name}",
            event_case(
                "payout_id", type=ledger_pb2.EventType.Value(f"EVENT_TYPE_{name}"), payout_id="po_1"
            ),
        )
    yield (
        "payout_id-malformed-on-a-charge",
        event_case("payout_id", payout_id="'; DROP TABLE payouts;--"),
    )
    for name, text in {
        "256": "a" * 256,
        "accent": "\u00e9",
        "line-feed": "a\n",
        "nul": "\0",
        "delete": "\x7f",
        "tab": "\t",
    }.items():
        yield f"reference-{name}", event_case("reference", reference=text)
    for name, metadata in bad_metadata():
        yield f"metadata-{name}", event_case("metadata", metadata=metadata)


def bad_terms() -> Iterator[tuple[str, Case]]:
    """What the processor says of time and cost, and events without a restaurant."""
    types = {name.removeprefix("EVENT_TYPE_"): number for name, number in EventType.items()}
    taking_time = {"CHARGE_SUCCEEDED", "REFUND_SUCCEEDED", "CHARGE_REVERSED", "TAX_WITHHELD"}
    costing = {"CHARGE_SUCCEEDED", "REFUND_SUCCEEDED", "DISPUTE_OPENED"}
    of_platform = {"PROCESSOR_SETTLED", "PROCESSOR_SETTLEMENT_DEBITED"}
    without_restaurant = of_platform | {"PROCESSOR_FEE_ASSESSED", "PROCESSOR_FEE_REFUNDED"}
    for name, number in types.items():
        if "PAYOUT" in name or name == "UNSPECIFIED":
            continue
        place = "" if name in of_platform else "res_001"
        if name not in taking_time:
            yield (
                f"available_at-on-{name}",
                event_case(
                    "available_at", type=number, restaurant_id=place, available_at=OCCURRED_AT
                ),
            )
        if name not in costing:
            yield (
                f"processor_fee-on-{name}",
                event_case(
                    "processor_fee_minor", type=number, restaurant_id=place, processor_fee_minor=1
                ),
            )
        if name not in without_restaurant:
            yield (
                f"no-restaurant-on-{name}",
                event_case("restaurant_id", type=number, restaurant_id=""),
            )
    for name in sorted(of_platform):
        yield f"restaurant-on-{name}", event_case("restaurant_id", type=types[name])
    yield (
        "restaurant-malformed-on-a-cost",
        event_case("restaurant_id", type=types["PROCESSOR_FEE_ASSESSED"], restaurant_id="a b"),
    )
    for name, instant in {
        "before-occurred_at": OCCURRED_AT - timedelta(microseconds=1),
        "401-days-later": OCCURRED_AT + timedelta(days=401),
        "just-above-400-days": OCCURRED_AT + timedelta(days=400, microseconds=1),
        "year-1": datetime(1, 1, 1, tzinfo=UTC),
        "year-9999": datetime(9999, 12, 31, tzinfo=UTC),
    }.items():
        yield f"available_at-{name}", event_case("available_at", available_at=instant)
    for seconds, nanos in ((INT64_MAX, 0), (INT64_MIN, 0), (YEAR_2000, -1), (YEAR_2000, 10**9)):
        event = event_message()
        event.available_at.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
        yield (
            f"available_at-{seconds}-{nanos}",
            Case("IngestEvent", ingest(event), fields=("event.available_at",)),
        )
    for fee in (-1, INT64_MIN, AMOUNT_CAP + 1, INT64_MAX):
        yield (
            f"processor_fee-{fee}",
            event_case("processor_fee_minor", processor_fee_minor=fee),
        )
        yield (
            f"dispute-fee-{fee}",
            event_case("fee_minor", type=types["DISPUTE_OPENED"], amount_minor=1, fee_minor=fee),
        )


def bad_instants() -> Iterator[tuple[str, Case]]:
    """Instants that do not exist, or are out of range."""

    def in_10_minutes() -> bytes:
        return ingest(event_message(occurred_at=datetime.now(UTC) + timedelta(minutes=10)))

    yield "year-1", instant_case(YEAR_1)
    yield "before-year-1", instant_case(YEAR_1 - 1)
    yield "epoch", instant_case(0)
    yield "just-before-2000", instant_case(YEAR_2000 - 1, 999_999_999)
    yield "end-of-year-9999", instant_case(YEAR_9999, 999_999_999)
    yield "year-10000", instant_case(YEAR_9999 + 1)
    for seconds in (INT64_MAX, INT64_MIN, -1, 2**31, 2**32, 2**53):
        yield f"seconds-{seconds}", instant_case(seconds)
    for nanos in (-1, 10**9, 2**31 - 1, -(2**31)):
        yield f"nanos-{nanos}", instant_case(YEAR_2000 + 86_400, nanos)
    yield "nanos-below-0-at-the-floor", instant_case(YEAR_2000, -1)
    yield "in-10-minutes", Case("IngestEvent", in_10_minutes, fields=("event.occurred_at",))


def accepted_requests() -> Iterator[tuple[str, Case]]:
    """Events that are unusual but valid."""
    yield "event_id-of-128", accepted(event_id="a" * 128)
    yield "every-allowed-character", accepted(event_id="AZaz09._:-")
    yield "dots", accepted(event_id="..")
    yield (
        "unknown-fields-of-50-KB",
        Case("IngestEvent", ingest(event_message(), appended=field(900, b"a" * 50_000)), OK, None),
    )
    yield "yen", accepted(currency="JPY", amount_minor=1)
    yield "dinar", accepted(currency="KWD", amount_minor=1_234)
    yield "unidad-de-fomento", accepted(currency="CLF")
    yield "smallest", accepted(amount_minor=1)
    yield "cap", accepted(amount_minor=AMOUNT_CAP)
    yield "fee-is-the-amount", accepted(amount_minor=10_000, fee_minor=10_000)
    yield "fee-is-the-amount-at-the-cap", accepted(amount_minor=AMOUNT_CAP, fee_minor=AMOUNT_CAP)
    yield "available-as-it-occurred", accepted(available_at=OCCURRED_AT)
    yield "available-400-days-later", accepted(available_at=OCCURRED_AT + timedelta(days=400))
    yield "processor-fee-above-the-amount", accepted(amount_minor=1, processor_fee_minor=AMOUNT_CAP)
    yield (
        "dispute-fee-above-the-amount",
        accepted(
            type=EventType.Value("EVENT_TYPE_DISPUTE_OPENED"), amount_minor=1, fee_minor=1_500
        ),
    )
    yield (
        "settlement",
        accepted(type=EventType.Value("EVENT_TYPE_PROCESSOR_SETTLED"), restaurant_id=""),
    )
    yield (
        "cost-of-the-platform",
        accepted(type=EventType.Value("EVENT_TYPE_PROCESSOR_FEE_ASSESSED"), restaurant_id=""),
    )
    for name in ("REFUND_SUCCEEDED", "DISPUTE_OPENED"):
        yield (
            f"fee-on-{name}",
            accepted(type=ledger_pb2.EventType.Value(f"EVENT_TYPE_{name}"), fee_minor=1),
        )
    yield "start-of-2000", instant_accepted(YEAR_2000)
    yield "10-years-old", accepted(occurred_at=datetime(2016, 11, 20, tzinfo=UTC))
    yield (
        "leap-day",
        accepted(occurred_at=datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)),
    )
    yield (
        "in-4-minutes",
        instant_accepted(int((datetime.now(UTC) + timedelta(minutes=4)).timestamp())),
    )
    yield "metadata-of-8192", accepted(metadata={"": "a" * 8192})
    yield "metadata-of-2730-euro-signs", accepted(metadata={"": "\u20ac" * 2730})
    yield (
        "metadata-odd-text",
        accepted(metadata={"\U0001f355 \u202e": "\x01\n\ufeff\uffff\U0010ffff \\u0000 \\ \" '"}),
    )
    yield "reference-of-255", accepted(reference="~" * 255)
    yield "reference-with-sql", accepted(reference="'; DROP TABLE ledger_entries;--")


@pytest.mark.both_servers
@pytest.mark.parametrize("case", params(accepted_requests()))
async def test_odd_but_valid_event_is_booked(shared_ledger: RunningLedger, case: Case) -> None:
    """It is read back as it was sent."""
    before = await counts(shared_ledger)
    request = case.sent()
    response = ledger_pb2.IngestEventResponse.FromString(
        await send(shared_ledger, case.method, request)
    )
    assert response.status == ledger_pb2.INGEST_STATUS_CREATED
    assert (await counts(shared_ledger))[0] == before[0] + 1
    sent = ledger_pb2.IngestEventRequest.FromString(request).event
    kept = (
        await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=sent.event_id))
    ).event
    sent.DiscardUnknownFields()
    assert kept == sent


@pytest.mark.both_servers
async def test_ids_that_differ_in_case_are_two_events(shared_ledger: RunningLedger) -> None:
    """Ids are compared byte by byte."""
    event_id = unique("evt")
    results = await shared_ledger.ingest(
        event_message(event_id=event_id), event_message(event_id=event_id.upper(), amount_minor=7)
    )
    assert [result.status for result in results] == [ledger_pb2.INGEST_STATUS_CREATED] * 2


@pytest.mark.both_servers
async def test_digits_finer_than_a_microsecond_do_not_count(shared_ledger: RunningLedger) -> None:
    """999,999,999 ns and 999,999,000 ns are the same microsecond, so the second is a DUPLICATE.

    An event that is a microsecond earlier is another event.
    """
    event = event_message()
    event.occurred_at.CopyFrom(Timestamp(seconds=YEAR_2000 + 86_400, nanos=999_999_999))
    first = await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    event.occurred_at.nanos = 999_999_000
    second = await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    assert first.status == ledger_pb2.INGEST_STATUS_CREATED
    assert second.status == ledger_pb2.INGEST_STATUS_DUPLICATE
    assert second.transaction_id == first.transaction_id
    kept = (
        await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    ).event
    assert kept.occurred_at == event.occurred_at
    event.occurred_at.nanos = 999_998_999
    with pytest.raises(aio.AioRpcError) as caught:
        await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    assert refusal(caught.value).metadata["differing_fields"] == "occurred_at"


@pytest.mark.both_servers
async def test_reference_and_metadata_that_look_like_sql_are_kept(
    shared_ledger: RunningLedger,
) -> None:
    """They are values of an SQL statement, never part of its text."""
    text = "'); DROP TABLE processor_events; --"
    event = event_message(reference=text, metadata={text: text})
    await shared_ledger.ingest(event)
    kept = await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    assert kept.event == event
    assert timestamp(kept.recorded_at.ToDatetime(UTC)) == kept.recorded_at


async def test_setting_rejects_events_of_unknown_restaurants(database: Database) -> None:
    """With `reject`, an event of an unregistered restaurant is NOT_FOUND and registers nothing.

    The other events of its batch are booked.
    """
    async with running_ledger(database, unknown_restaurants="reject") as ledger:
        unknown = event_message(restaurant_id="unknown")
        before = await counts(ledger)
        with pytest.raises(aio.AioRpcError) as caught:
            await send(ledger, "IngestEvent", ingest(unknown))
        got = refusal(caught.value)
        assert (got.code, got.reason) == (grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND")
        assert got.metadata == {"restaurant_id": "unknown"}
        assert await counts(ledger) == before
        await ledger.stub.PutRestaurant(ledger_pb2.PutRestaurantRequest(restaurant_id="known"))
        known = event_message(event_id=unknown.event_id, restaurant_id="known")
        results = await ledger.ingest(
            unknown, unknown, known, event_message(restaurant_id="known"), known
        )
        outcomes = [
            checked_details_of(result.error)[0] if result.HasField("error") else result.status
            for result in results
        ]
        created, duplicate = ledger_pb2.INGEST_STATUS_CREATED, ledger_pb2.INGEST_STATUS_DUPLICATE
        assert outcomes == [
            "RESTAURANT_NOT_FOUND",
            "RESTAURANT_NOT_FOUND",
            created,
            created,
            duplicate,
        ]
        assert await ledger.query("SELECT restaurant_id FROM restaurants") == [("known",)]


PLANTED = {
    "event": (
        "ALTER TABLE processor_events ADD CONSTRAINT planted CHECK (restaurant_id <> 'poison')"
    ),
    "entry": "ALTER TABLE ledger_entries ADD CONSTRAINT planted CHECK (amount_minor <> 666)",
    "restaurant": (
        "ALTER TABLE restaurants ADD CONSTRAINT planted CHECK (restaurant_id <> 'poison')"
    ),
    "account": (
        "ALTER TABLE balance_accounts ADD CONSTRAINT planted CHECK (restaurant_id <> 'poison')"
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_event_that_only_the_database_rejects_fails_no_other(
    ledger: RunningLedger, planted: str
) -> None:
    """A constraint that validation does not know makes one event INVALID_ARGUMENT.

    The others are booked.
    """
    await ledger.query(PLANTED[planted])
    poison = event_message(restaurant_id="poison", amount_minor=666)
    good = [event_message(restaurant_id=unique("res")) for _ in range(9)]
    results = await ledger.ingest(*good[:4], poison, *good[4:])
    assert [result.status for result in results[:4] + results[5:]] == [
        ledger_pb2.INGEST_STATUS_CREATED
    ] * 9
    reason, metadata, _ = checked_details_of(results[4].error)
    assert (results[4].error.code, reason) == (INVALID.value[0], "EVENT_REJECTED")
    assert metadata == {"event_id": poison.event_id}
    assert_nothing_internal(str(results[4].error))
    with pytest.raises(aio.AioRpcError) as caught:
        await send(ledger, "IngestEvent", ingest(poison))
    got = refusal(caught.value)
    assert (got.code, got.reason) == (INVALID, "EVENT_REJECTED")
    assert_nothing_internal(got.everything)
    assert await ledger.query("SELECT count(*) FROM processor_events") == [(9,)]


@pytest.mark.both_servers
@pytest.mark.parametrize("cases", groups(bad_events(), bad_terms(), bad_instants()))
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)
