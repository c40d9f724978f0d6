"""Random requests: messages of each type of the contract with nasty values, and damaged bytes."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import field_mask_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.type import date_pb2

from ledger.v1 import account_pb2, ledger_pb2, payment_pb2
from support.bad_requests import AMOUNT_CAP, REQUEST_TYPES, UUID_TEXT, field
from support.events import OCCURRED_AT, event_message
from support.quarantine import delivery

# The responses that have a result for each item of a batch.
BATCH_RESPONSES: dict[str, Any] = {
    "BatchIngestEvents": ledger_pb2.BatchIngestEventsResponse,
    "BatchAuthorizePayments": payment_pb2.BatchAuthorizePaymentsResponse,
    "BatchTransfers": payment_pb2.BatchTransfersResponse,
}

SECONDS = (
    -62_135_596_801,
    -62_135_596_800,
    -1,
    0,
    946_684_799,
    946_684_800,
    1_700_000_000,
    253_402_300_799,
    253_402_300_800,
)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (
        -(2**31),
        -1,
        0,
        1,
        100,
        365,
        366,
        1000,
        1001,
        999_999_999,
        10**9,
        2**31 - 1,
    ),
    FieldDescriptor.CPPTYPE_INT64: (
        *(
            -(2**63),
            -1,
            0,
            1,
            2,
            1250,
            AMOUNT_CAP - 1,
            AMOUNT_CAP,
            AMOUNT_CAP + 1,
            2**53 + 1,
            2**63 - 1,
        ),
        *SECONDS,
    ),
}
ENUMS = (-(2**31), -1, *range(12), 77, 2**31 - 1)
NASTY_TEXTS = (
    *("", " ", "PEN", "JPY", "XXX", "pen", "evt_1", "res_1", "known", "known_2"),
    *(UUID_TEXT, UUID_TEXT.upper()),
    *(
        "a" * 128,
        "a" * 129,
        "\0",
        "a\0",
        "\n",
        "'--",
        "\ufeff",
        "\u202e",
        "e\u0301",
        "\u00e9",
        "\uff11",
        "\U0010ffff",
        "\uffff",
    ),
    *(
        "%s%n",
        "${jndi:x}",
        "../../x",
        "\x1b[31m",
        "null",
        "NaN",
        "-0",
        "1e3",
        "\\",
        '"',
        "a" * 70_000,
        "\U0001f355" * 3000,
    ),
)

_EVENT = event_message(
    event_id="evt_1",
    restaurant_id="known",
    fee_minor=1,
    reference="ref",
    metadata={"a": "b"},
    available_at=OCCURRED_AT,
    processor_fee_minor=2,
)
_FAILURE = event_message(
    ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
    event_id="evt_2",
    restaurant_id="known",
    payout_id="known",
    bank_reference="ref",
    failure_code="AC04",
    failure_text="closed",
)
# The accounts, restaurant and payment of the valid requests.
KNOWN_ACCOUNTS = [
    account_pb2.CreateAccountRequest(
        account_id=account_id,
        currency="PEN",
        name="n",
        overdraft=account_pb2.Overdraft(unlimited=True),
        metadata={"a": "b"},
    )
    for account_id in ("known", "known_2")
]
KNOWN_PAYMENT = payment_pb2.AuthorizePaymentRequest(
    payment_id="known",
    payer_account_id="known",
    payee_account_id="known_2",
    amount_minor=AMOUNT_CAP,
    currency="PEN",
    capture=payment_pb2.CAPTURE_MODE_MANUAL,
    reference="ref",
    metadata={"a": "b"},
)

KNOWN_DELIVERY = delivery(body=b'{"id": "known"}')


def _valid_requests_about_accounts() -> dict[str, Message]:
    return {
        "CreateAccount": KNOWN_ACCOUNTS[0],
        "UpdateAccount": account_pb2.UpdateAccountRequest(
            account=account_pb2.Account(
                account_id="known",
                name="n",
                overdraft=account_pb2.Overdraft(unlimited=True),
                state=account_pb2.ACCOUNT_STATE_OPEN,
                metadata={"a": "b"},
            ),
            update_mask=field_mask_pb2.FieldMask(
                paths=["name", "overdraft", "state", "metadata.a"]
            ),
        ),
        "GetAccount": account_pb2.GetAccountRequest(account_id="known"),
        "ListAccounts": account_pb2.ListAccountsRequest(page_size=1),
        "GetAccountBalance": account_pb2.GetAccountBalanceRequest(
            account_id="known", as_of=_EVENT.occurred_at
        ),
        "ListAccountEntries": account_pb2.ListAccountEntriesRequest(
            account_id="known",
            start_at=_EVENT.occurred_at,
            entry_types=[ledger_pb2.ENTRY_TYPE_PAYMENT_HOLD, ledger_pb2.ENTRY_TYPE_TRANSFER_OUT],
            payment_id="known",
        ),
    }


def _valid_requests_about_payments() -> dict[str, Message]:
    operation = {"operation_id": "known", "payment_id": "known"}
    order = {
        "payer_account_id": "known",
        "payee_restaurant_id": "known",
        "amount_minor": 1250,
        "currency": "PEN",
        "fee_minor": 1,
        "reference": "ref",
        "metadata": {"a": "b"},
    }
    held = {**order, "capture": payment_pb2.CAPTURE_MODE_MANUAL}
    made: Any = payment_pb2
    return {
        "AuthorizePayment": made.AuthorizePaymentRequest(payment_id="known_2", **held),
        "BatchAuthorizePayments": made.BatchAuthorizePaymentsRequest(
            payments=[
                {"payment_id": "known_3", "linked": True, **held},
                {"payment_id": "known_4", **held},
            ]
        ),
        "BatchTransfers": made.BatchTransfersRequest(
            transfers=[{"payment_id": "known_5", **order}, {"payment_id": "known_6", **order}]
        ),
        "CapturePayment": made.CapturePaymentRequest(amount_minor=1, **operation),
        "VoidPayment": made.VoidPaymentRequest(**operation),
        "RefundPayment": made.RefundPaymentRequest(amount_minor=1, **operation),
        "ReversePayment": made.ReversePaymentRequest(**operation),
        "GetPayment": made.GetPaymentRequest(payment_id="known"),
        "ListPayments": made.ListPaymentsRequest(
            payer_account_id="known", state=payment_pb2.PAYMENT_STATE_AUTHORIZED
        ),
    }


def _valid_requests_about_payloads(quarantine_id: str, parked_id: str) -> dict[str, Message]:
    return {
        "QuarantinePayload": KNOWN_DELIVERY,
        "ListQuarantined": ledger_pb2.ListQuarantinedRequest(
            endpoint=KNOWN_DELIVERY.endpoint,
            processor=KNOWN_DELIVERY.processor,
            reason=KNOWN_DELIVERY.reason,
            end_at=_EVENT.occurred_at,
            with_bodies=True,
            page_size=1,
        ),
        "GetQuarantined": ledger_pb2.GetQuarantinedRequest(quarantine_id=quarantine_id),
        "GetQuarantineSummary": ledger_pb2.GetQuarantineSummaryRequest(
            endpoint=KNOWN_DELIVERY.endpoint
        ),
        "RetryQuarantined": ledger_pb2.RetryQuarantinedRequest(quarantine_ids=[quarantine_id]),
        "ResolveQuarantined": ledger_pb2.ResolveQuarantinedRequest(
            quarantine_id=parked_id,
            move_number=1,
            outcome=ledger_pb2.QUARANTINE_STATE_RELEASED,
            detail="booked by hand",
        ),
        "DiscardQuarantined": ledger_pb2.DiscardQuarantinedRequest(
            quarantine_id=quarantine_id, reason="a test"
        ),
    }


def valid_requests(
    *,
    payout_run_id: str = UUID_TEXT,
    payout_id: str = UUID_TEXT,
    canceled_payout_id: str = UUID_TEXT,
    quarantine_id: str = UUID_TEXT,
    parked_id: str = UUID_TEXT,
) -> dict[str, Message]:
    """A valid request of each method, about KNOWN_ACCOUNTS, KNOWN_PAYMENT and the like. The payout
    that is canceled must be of another run: that one's are submitted. Of the payloads, one is
    discarded and a PARKED one is released.
    """
    return {
        **_valid_requests_about_accounts(),
        **_valid_requests_about_payments(),
        **_valid_requests_about_payloads(quarantine_id, parked_id),
        "IngestEvent": ledger_pb2.IngestEventRequest(event=_EVENT),
        "BatchIngestEvents": ledger_pb2.BatchIngestEventsRequest(events=[_EVENT, _FAILURE]),
        "StreamEvents": ledger_pb2.StreamEventsRequest(event=_EVENT),
        "GetEvent": ledger_pb2.GetEventRequest(event_id="evt_1"),
        "PreviewEvent": ledger_pb2.PreviewEventRequest(event=_EVENT),
        "ListBalances": ledger_pb2.ListBalancesRequest(
            currency="PEN", restaurant_id_prefix="k", min_available_minor=-1, with_sums=True
        ),
        "ListMaturities": ledger_pb2.ListMaturitiesRequest(
            restaurant_id="known", currency="PEN", days=7
        ),
        "ListPayoutEntries": ledger_pb2.ListPayoutEntriesRequest(
            payout_id=payout_id, entry_types=[ledger_pb2.ENTRY_TYPE_CHARGE]
        ),
        "ListEvents": ledger_pb2.ListEventsRequest(
            restaurant_id="known",
            reference="ref",
            types=[ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED],
            currency="PEN",
            start_at=_EVENT.occurred_at,
            with_entries=True,
        ),
        "GetBalance": ledger_pb2.GetBalanceRequest(
            restaurant_id="known", currency="PEN", as_of=_EVENT.occurred_at
        ),
        "ListEntries": ledger_pb2.ListEntriesRequest(
            restaurant_id="known",
            currency="PEN",
            start_at=_EVENT.occurred_at,
            entry_types=[ledger_pb2.ENTRY_TYPE_CHARGE, ledger_pb2.ENTRY_TYPE_FEE],
            event_id="evt_1",
            payout_id=payout_id,
        ),
        "RunPayouts": ledger_pb2.RunPayoutsRequest(
            currency="PEN",
            as_of=date_pb2.Date(year=2026, month=1, day=2),
            min_amount_minor=1,
            request_id="req_1",
            dry_run=True,
            restaurant_ids=["known"],
        ),
        "GetPayoutRun": ledger_pb2.GetPayoutRunRequest(payout_run_id=payout_run_id),
        "ListPayoutRuns": ledger_pb2.ListPayoutRunsRequest(
            currency="PEN", state=ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED
        ),
        "CancelPayoutRun": ledger_pb2.CancelPayoutRunRequest(payout_run_id=payout_run_id),
        "ListPayoutRunItems": ledger_pb2.ListPayoutRunItemsRequest(
            payout_run_id=payout_run_id,
            outcome=ledger_pb2.PAYOUT_RUN_ITEM_OUTCOME_PAYOUT_CREATED,
            page_size=1,
        ),
        "GetPayout": ledger_pb2.GetPayoutRequest(payout_id=payout_id),
        "ListPayouts": ledger_pb2.ListPayoutsRequest(
            restaurant_id="known",
            state=ledger_pb2.PAYOUT_STATE_CREATED,
            payout_run_id=payout_run_id,
            currency="PEN",
            start_at=_EVENT.occurred_at,
            unanswered_since=_EVENT.occurred_at,
        ),
        "SubmitPayouts": ledger_pb2.SubmitPayoutsRequest(
            submission_id="sub_1", payout_run_id=payout_run_id
        ),
        "CancelPayout": ledger_pb2.CancelPayoutRequest(payout_id=canceled_payout_id),
        "PutRestaurant": ledger_pb2.PutRestaurantRequest(
            restaurant_id="known",
            name="n",
            maturity_days=1,
            payout_hold=ledger_pb2.PayoutHold(reason="r", until=_EVENT.occurred_at),
            min_balance_minor={"PEN": 1},
        ),
        "UpdateRestaurant": ledger_pb2.UpdateRestaurantRequest(
            restaurant=ledger_pb2.Restaurant(
                restaurant_id="known",
                name="n",
                active=True,
                metadata={"a": "b"},
                payout_hold=ledger_pb2.PayoutHold(reason="r"),
                min_balance_minor={"PEN": 1},
            ),
            update_mask=field_mask_pb2.FieldMask(
                paths=["name", "active", "metadata.a", "payout_hold", "min_balance_minor.PEN"]
            ),
        ),
        "GetRestaurant": ledger_pb2.GetRestaurantRequest(restaurant_id="known"),
        "ListRestaurants": ledger_pb2.ListRestaurantsRequest(page_size=1),
    }


VALID = valid_requests()


@dataclass(frozen=True, slots=True)
class FuzzCase:
    """A call: one request, or for a stream several."""

    number: int
    method: str
    requests: Sequence[bytes]


def fuzz_cases(seed: int, cases: int, valid: Mapping[str, Message] = VALID) -> Iterator[FuzzCase]:
    """`cases` random calls. A call depends only on the seed and its number."""
    methods = sorted(valid)
    for number in range(cases):
        chance = random.Random(f"{seed}/{number}")
        method = methods[number % len(methods)]
        size = chance.choice((0, 1, 1, 2, 4)) if method == "StreamEvents" else 1
        yield FuzzCase(
            number, method, [_request(chance, method, valid[method], number) for _ in range(size)]
        )


def _request(chance: random.Random, method: str, valid: Message, number: int) -> bytes:
    match chance.choice(("any", "changed", "changed", "changed", "damaged", "damaged", "noise")):
        case "any":
            raw = any_message(chance, REQUEST_TYPES[method]).SerializeToString()
        case "changed":
            raw = _changed(chance, method, valid, number).SerializeToString()
        case "damaged":
            raw = damaged(chance, _changed(chance, method, valid, number).SerializeToString())
        case _:
            raw = chance.randbytes(chance.choice((1, 2, 8, 64, 500)))
    if chance.random() < 0.1:
        # A field that no version has yet.
        raw += field(chance.choice((15, 99, 18_999, 2**29 - 1)), b"abc")
    return raw


def _changed(chance: random.Random, method: str, valid: Message, number: int) -> Message:
    """A valid request with up to two fields replaced, so that it passes most of the checks."""
    message = type(valid)()
    message.CopyFrom(valid)
    touched: Any = message
    for item in _items(method, touched):
        if chance.random() < 0.7:
            setattr(item, _ID_FIELDS[method], f"fuzz_{number}_{chance.randrange(3)}")
        touched = item
    fields = touched.DESCRIPTOR.fields
    for _ in range(chance.choice((0, 1, 1, 2)) if fields else 0):
        field = chance.choice(fields)
        touched.ClearField(field.name)
        touched.MergeFrom(type(touched)(**{field.name: _value(chance, field)}))
    return message


# The id under which a method stores something: with a new one it does so.
_ID_FIELDS = {
    "IngestEvent": "event_id",
    "BatchIngestEvents": "event_id",
    "StreamEvents": "event_id",
    "CreateAccount": "account_id",
    "AuthorizePayment": "payment_id",
    "BatchAuthorizePayments": "payment_id",
    "BatchTransfers": "payment_id",
    "CapturePayment": "operation_id",
    "VoidPayment": "operation_id",
    "RefundPayment": "operation_id",
    "ReversePayment": "operation_id",
}
_ITEMS = {
    "BatchIngestEvents": "events",
    "BatchAuthorizePayments": "payments",
    "BatchTransfers": "transfers",
}


def _items(method: str, message: Any) -> list[Any]:
    """What a request stores under an id each: the request itself, or the messages in it."""
    if method in _ITEMS:
        return list(getattr(message, _ITEMS[method]))
    if method in ("IngestEvent", "StreamEvents"):
        return [message.event] if message.HasField("event") else []
    return [message] if method in _ID_FIELDS else []


def any_message(chance: random.Random, descriptor: Descriptor) -> Message:
    """A message of a type with any of its fields set to anything."""
    fields = [field for field in descriptor.fields if chance.random() < 0.6]
    return GetMessageClass(descriptor)(**{field.name: _value(chance, field) for field in fields})


def _value(chance: random.Random, field: FieldDescriptor) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        values = field.message_type.fields_by_name["value"]
        return {_text(chance): _single(chance, values) for _ in range(chance.choice((0, 1, 3)))}
    if field.is_repeated:
        return [_single(chance, field) for _ in range(chance.choice((0, 1, 2, 5)))]
    return _single(chance, field)


def _single(chance: random.Random, field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return any_message(chance, field.message_type)
    if field.cpp_type in INTEGERS:
        edges = INTEGERS[field.cpp_type]
        return (
            chance.choice(edges) if chance.random() < 0.7 else chance.randint(edges[0], max(edges))
        )
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return chance.choice(ENUMS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _text(chance).encode()
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _text(chance)
    raise ValueError(f"no values for {field.full_name}")


def _text(chance: random.Random) -> str:
    if chance.random() < 0.7:
        return chance.choice(NASTY_TEXTS)
    return "".join(
        chr(chance.choice((chance.randrange(1, 0x80), chance.randrange(0xA0, 0xD800))))
        for _ in range(chance.randrange(20))
    )


def damaged(chance: random.Random, raw: bytes) -> bytes:
    """The bytes after a few accidents."""
    damaged = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        place = chance.randint(0, len(damaged))
        match chance.choice(("flip", "flip", "cut", "remove", "stuff", "repeat")):
            case "flip" if place < len(damaged):
                damaged[place] ^= chance.randint(1, 255)
            case "cut":
                del damaged[place:]
            case "remove":
                del damaged[place : place + chance.randint(1, 8)]
            case "stuff":
                damaged[place:place] = chance.randbytes(chance.randint(1, 12))
            case _:
                damaged += damaged[place:][:4096]
    return bytes(damaged)
