"""Payments, operations, batches and lists of payments that are refused."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from support.bad_requests import (
    AMOUNT_CAP,
    BAD_INSTANTS,
    INT64_MAX,
    INT64_MIN,
    YEAR_2000,
    Case,
    Cases,
    assert_conflict,
    assert_nothing_internal,
    assert_refused,
    assert_serving,
    bad_metadata,
    bad_page_tokens,
    case_of,
    checked_details_of,
    counts,
    groups,
    order_of,
    payment_case,
    send,
)
from support.events import unique
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import payment_pb2

IMMEDIATE, MANUAL = payment_pb2.CAPTURE_MODE_IMMEDIATE, payment_pb2.CAPTURE_MODE_MANUAL
REQUIRED = (
    *("payment_id", "payer_account_id", "payee_account_id"),
    *("amount_minor", "currency", "capture"),
)
BAD_AMOUNTS = (0, -1, INT64_MIN, INT64_MAX, AMOUNT_CAP + 1, 2**53 + 1)
BAD_REFERENCES = {
    "256": "a" * 256,
    "accent": "\u00e9",
    "line-feed": "a\n",
    "nul": "\0",
    "delete": "\x7f",
    "tab": "\t",
}
BAD_EXPIRIES = {
    **BAD_INSTANTS,
    "epoch": (0, 0),
    "just-before-2000": (YEAR_2000 - 1, 999_999_999),
    # 9999-01-01T00:00:00Z
    "year-9999": (253_370_764_800, 0),
}
UNKNOWN_ACCOUNT = (grpc.StatusCode.NOT_FOUND, "ACCOUNT_NOT_FOUND")
UNKNOWN_PAYMENT = (grpc.StatusCode.NOT_FOUND, "PAYMENT_NOT_FOUND")
OPERATIONS = ("CapturePayment", "VoidPayment", "RefundPayment", "ReversePayment")

pytestmark = [pytest.mark.usefixtures("_known_accounts"), pytest.mark.both_servers]


def bad_payments() -> Iterator[tuple[str, Case]]:
    """Payments whose fields are missing or wrong."""
    yield "empty", case_of("AuthorizePayment", *REQUIRED)
    for name in REQUIRED:
        yield f"{name}-unset", payment_case(name, **{name: None})
    for number in (0, 3, 77, -1, 2**31 - 1, -(2**31)):
        yield f"capture-{number}", payment_case("capture", capture=number)
    for capture in (IMMEDIATE, MANUAL):
        yield f"payer-is-payee-{capture}", to_account("payee_account_id", "known", capture=capture)
    for amount in BAD_AMOUNTS:
        yield f"amount-{amount}", payment_case("amount_minor", amount_minor=amount)
    for fee in (-1, INT64_MIN, 10_001, INT64_MAX):
        yield f"fee-{fee}", payment_case("fee_minor", payee_restaurant_id="known", fee_minor=fee)
    yield "fee-of-an-account", payment_case("fee_minor", fee_minor=1)
    for amount in (INT64_MIN, INT64_MAX):
        fields = ("amount_minor", "fee_minor") if amount < 0 else ("amount_minor",)
        yield (
            f"amount-and-fee-{amount}",
            payment_case(
                *fields, payee_restaurant_id="known", amount_minor=amount, fee_minor=amount
            ),
        )
    for name, (seconds, nanos) in BAD_EXPIRIES.items():
        expires_at = {"seconds": seconds, "nanos": nanos}
        yield f"expires_at-{name}", payment_case("expires_at", expires_at=expires_at)
    yield (
        "expires_at-of-a-transfer",
        payment_case("expires_at", capture=IMMEDIATE, expires_at={"seconds": 4_000_000_000}),
    )
    for name, text in BAD_REFERENCES.items():
        yield f"reference-{name}", payment_case("reference", reference=text)
    for name, metadata in bad_metadata():
        yield f"metadata-{name}", payment_case("metadata", metadata=metadata)
    for path in ("payer_account_id", "payee_account_id"):
        unknown = payment_case(**{path: "unknown"}).sent()
        yield f"{path}-unknown", Case("AuthorizePayment", unknown, *UNKNOWN_ACCOUNT)
    both = payment_case(payer_account_id="unknown", payee_account_id="unknown_2").sent()
    yield "both-unknown", Case("AuthorizePayment", both, *UNKNOWN_ACCOUNT)


def to_account(field: str, payee_account_id: str, **changes: Any) -> Case:
    return payment_case(field, payee_account_id=payee_account_id, **changes)


def bad_operations() -> Iterator[tuple[str, Case]]:
    """Operations whose fields are missing or wrong, or whose payment does not exist."""
    for method in OPERATIONS:
        yield f"{method}-empty", case_of(method, "operation_id", "payment_id")
        for missing in ("operation_id", "payment_id"):
            given = {"operation_id": "op_bad", "payment_id": "known"}
            del given[missing]
            yield f"{method}-{missing}-unset", case_of(method, missing, **given)
        unknown = case_of(method, operation_id="op_bad", payment_id="unknown").sent()
        yield f"{method}-unknown", Case(method, unknown, *UNKNOWN_PAYMENT)
    for method in ("CapturePayment", "RefundPayment"):
        for amount in BAD_AMOUNTS:
            if amount:
                yield (
                    f"{method}-amount-{amount}",
                    case_of(
                        method,
                        "amount_minor",
                        operation_id="op_bad",
                        payment_id="known",
                        amount_minor=amount,
                    ),
                )
        yield (
            f"{method}-everything",
            case_of(method, "operation_id", "payment_id", "amount_minor", amount_minor=-1),
        )


def bad_batches() -> Iterator[tuple[str, Case]]:
    """Batches that are wrong as a whole."""
    for method, items in {
        "BatchAuthorizePayments": "payments",
        "BatchTransfers": "transfers",
    }.items():
        capture = {"capture": MANUAL} if items == "payments" else {}
        last = [order_of(**capture), order_of(payment_id="pay_bad_2", linked=True, **capture)]
        for linked in (last, last[1:]):
            path = f"{items}[{len(linked) - 1}].linked"
            yield f"{path}-is-last", case_of(method, path, **{items: linked})


def bad_queries() -> Iterator[tuple[str, Case]]:
    """Payments and parties that do not exist, and pages and filters that are refused."""
    unknown = case_of("GetPayment", payment_id="unknown").sent()
    yield "GetPayment-unknown", Case("GetPayment", unknown, *UNKNOWN_PAYMENT)
    yield "GetPayment-empty", case_of("GetPayment", "payment_id")
    yield "ListPayments-empty", case_of("ListPayments", "payer_account_id")
    for path in ("payer_account_id", "payee_account_id"):
        unknown = case_of("ListPayments", **{path: "unknown"}).sent()
        yield f"ListPayments-{path}-unknown", Case("ListPayments", unknown, *UNKNOWN_ACCOUNT)
    unknown = case_of("ListPayments", payee_restaurant_id="unknown").sent()
    not_found = Case("ListPayments", unknown, grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND")
    yield "ListPayments-payee_restaurant_id-unknown", not_found
    for number in (7, 77, -1, 2**31 - 1, -(2**31)):
        yield f"ListPayments-state-{number}", of_known("state", state=number)
    for size in (-1, -(2**31)):
        yield f"ListPayments-page_size-{size}", of_known("page_size", page_size=size)
    for name, token in bad_page_tokens(["ListPayments", "known", "", "", ""]):
        yield f"ListPayments-page_token-{name}", of_known("page_token", page_token=token)


def of_known(field: str, **contents: Any) -> Case:
    """A list of the payments of an account that exists, refused for one field."""
    return case_of("ListPayments", field, payer_account_id="known", **contents)


@pytest.mark.parametrize(
    "cases", groups(bad_payments(), bad_operations(), bad_batches(), bad_queries())
)
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)


# In batches

# What is wrong with a payment of a batch, and the fields that its error names.
BAD_ITEMS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    **{f"{name}-unset": ({name: None}, (name,)) for name in REQUIRED},
    **{f"amount-{amount}": ({"amount_minor": amount}, ("amount_minor",)) for amount in BAD_AMOUNTS},
    **{
        f"reference-{name}": ({"reference": text}, ("reference",))
        for name, text in BAD_REFERENCES.items()
    },
    **{
        f"metadata-{name}": ({"metadata": metadata}, ("metadata",))
        for name, metadata in bad_metadata()
    },
    "payer-is-payee": ({"payee_account_id": "known"}, ("payee_account_id",)),
    "restaurant-malformed": ({"payee_restaurant_id": "a b"}, ("payee_restaurant_id",)),
    "currency-in-lower-case": ({"currency": "pen"}, ("currency",)),
    "fee-beyond-the-amount": (
        {"payee_restaurant_id": "known", "fee_minor": 10_001},
        ("fee_minor",),
    ),
    "fee-of-an-account": ({"fee_minor": 1}, ("fee_minor",)),
    "expiry-of-year-10000": ({"expires_at": {"seconds": 253_402_300_800}}, ("expires_at",)),
    "nearly-all": (
        {"payment_id": "", "payer_account_id": "", "amount_minor": -1, "currency": ""},
        ("payment_id", "payer_account_id", "amount_minor", "currency"),
    ),
}


async def results_of(ledger: RunningLedger, items: str, orders: list[dict[str, Any]]) -> list[Any]:
    """Sends a batch. Returns its results, which are as many as the orders."""
    method = "BatchTransfers" if items == "transfers" else "BatchAuthorizePayments"
    raw = await send(ledger, method, case_of(method, **{items: orders}).sent())
    # The responses of both methods are alike.
    results = list(payment_pb2.BatchTransfersResponse.FromString(raw).results)
    assert len(results) == len(orders)
    return results


def refused(error: status_pb2.Status) -> tuple[int, str, tuple[str, ...]]:
    """The code, the reason and the fields of an item's error."""
    assert_nothing_internal(str(error))
    reason, _, fields = checked_details_of(error)
    return error.code, reason, fields


def bad_items() -> Iterator[Any]:
    """Every bad item, as a payment and, if a transfer has such fields, as a transfer."""
    for name, (changes, fields) in BAD_ITEMS.items():
        yield pytest.param("payments", changes, fields, id=f"payments-{name}")
        if not {"capture", "expires_at"} & changes.keys():
            yield pytest.param("transfers", changes, fields, id=f"transfers-{name}")


@pytest.mark.parametrize(("items", "changes", "fields"), list(bad_items()))
async def test_bad_payment_of_a_batch_is_refused_alone(
    shared_ledger: RunningLedger, items: str, changes: dict[str, Any], fields: tuple[str, ...]
) -> None:
    """Its error names the fields with their place; those before and after it are decided."""
    capture: dict[str, Any] = {"capture": MANUAL} if items == "payments" else {}
    good = [order_of(payment_id=unique("pay"), **capture) for _ in range(3)]
    before = await counts(shared_ledger)
    results = await results_of(
        shared_ledger, items, [*good[:2], order_of(**capture | changes), good[2]]
    )
    assert refused(results[2].error) == (
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
        "INVALID_REQUEST",
        tuple(f"{items}[2].{field}" for field in fields),
    )
    assert results[2].status == payment_pb2.PAYMENT_STATUS_UNSPECIFIED
    assert not results[2].transaction_id
    decided = (
        payment_pb2.PAYMENT_STATUS_AUTHORIZED if capture else payment_pb2.PAYMENT_STATUS_CAPTURED
    )
    for result in (*results[:2], results[3]):
        assert (result.status, result.HasField("error")) == (decided, False)
    assert (await counts(shared_ledger))[9] == before[9] + 3
    await assert_serving(shared_ledger)


@pytest.mark.parametrize("items", ["payments", "transfers"])
async def test_chain_with_a_bad_payment_is_refused_as_a_whole(
    shared_ledger: RunningLedger, items: str
) -> None:
    """The bad one has its own error, the others of the chain are refused because of it."""
    capture = {"capture": MANUAL} if items == "payments" else {}
    chain = [order_of(payment_id=unique("pay"), linked=True, **capture) for _ in range(2)]
    orders = [
        *chain,
        order_of(payment_id=unique("pay"), amount_minor=0, **capture),
        order_of(payment_id=unique("pay"), **capture),
    ]
    before = await counts(shared_ledger)
    results = await results_of(shared_ledger, items, orders)
    linked = (grpc.StatusCode.FAILED_PRECONDITION.value[0], "LINKED_PAYMENT_REFUSED", ())
    assert [refused(result.error) for result in results[:2]] == [linked, linked]
    assert [checked_details_of(result.error)[1] for result in results[:2]] == [
        {"payment_id": order["payment_id"]} for order in chain
    ]
    assert refused(results[2].error)[1:] == ("INVALID_REQUEST", (f"{items}[2].amount_minor",))
    assert not results[3].HasField("error")
    assert (await counts(shared_ledger))[9] == before[9] + 1


@pytest.mark.parametrize("items", ["payments", "transfers"])
async def test_errors_of_a_thousand_payments_fit_a_response(
    shared_ledger: RunningLedger, items: str
) -> None:
    """The largest batch, and as many wrong fields in each payment as there can be."""
    wrong: dict[str, Any] = {
        "amount_minor": -1,
        "fee_minor": -1,
        "reference": "\n",
        "metadata": {"": "\0"},
    }
    if items == "payments":
        wrong["expires_at"] = {"nanos": -1}
    before = await counts(shared_ledger)
    results = await results_of(shared_ledger, items, [wrong] * 1000)
    assert {refused(result.error)[1] for result in results} == {"INVALID_REQUEST"}
    assert await counts(shared_ledger) == before


# The same id, other contents


@pytest.mark.parametrize(
    ("changes", "differing_fields"),
    [
        ({"amount_minor": 1}, "amount_minor"),
        ({"capture": IMMEDIATE}, "capture"),
        ({"payee_restaurant_id": "known"}, "payee_account_id,payee_restaurant_id"),
        ({"currency": "USD", "reference": "other"}, "currency,reference"),
        ({"expires_at": {"seconds": 4_000_000_000}}, "expires_at"),
    ],
)
async def test_payment_with_other_contents_is_refused(
    shared_ledger: RunningLedger, changes: dict[str, Any], differing_fields: str
) -> None:
    """ALREADY_EXISTS names the fields that differ, and no values. A batch gets the same error."""
    payment_id = unique("pay")
    first = payment_case(payment_id=payment_id)
    await send(shared_ledger, first.method, first.sent())
    other = payment_case(payment_id=payment_id, **changes)
    await assert_conflict(shared_ledger, other, "PAYMENT_ID_REUSED", "payment_id", differing_fields)
    order = order_of(**{"payment_id": payment_id, "capture": MANUAL} | changes)
    (result,) = await results_of(shared_ledger, "payments", [order])
    assert checked_details_of(result.error)[:2] == (
        "PAYMENT_ID_REUSED",
        {"payment_id": payment_id, "differing_fields": differing_fields},
    )


@pytest.mark.parametrize(
    ("method", "changes", "differing_fields"),
    [
        ("CapturePayment", {"amount_minor": 2}, "amount_minor"),
        ("CapturePayment", {"amount_minor": 1, "is_final": True}, "is_final"),
        ("CapturePayment", {"amount_minor": 1, "payment_id": "known"}, "payment_id"),
        ("RefundPayment", {"amount_minor": 1}, "kind"),
        ("VoidPayment", {}, "kind,amount_minor"),
    ],
)
async def test_operation_with_other_contents_is_refused(
    shared_ledger: RunningLedger, method: str, changes: dict[str, Any], differing_fields: str
) -> None:
    """ALREADY_EXISTS names the fields that differ, and no values."""
    payment_id, operation_id = unique("pay"), unique("op")
    ids = {"operation_id": operation_id, "payment_id": payment_id}
    for case in (
        payment_case(payment_id=payment_id),
        case_of("CapturePayment", amount_minor=1, **ids),
    ):
        await send(shared_ledger, case.method, case.sent())
    await assert_conflict(
        shared_ledger,
        case_of(method, **ids | changes),
        "OPERATION_ID_REUSED",
        "operation_id",
        differing_fields,
    )
