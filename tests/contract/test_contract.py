"""What the contract promises: names, types, comments, its JSON, and typed stubs."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import google.rpc
import grpc
import pytest
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from grpc_tools import protoc
from support.events import event_message
from support.running import RunningLedger

from ledger.client import Ledger
from ledger.v1 import account_pb2, error_reason_pb2, ledger_pb2, ledger_pb2_grpc, payment_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
MODULES = (ledger_pb2, account_pb2, payment_pb2, error_reason_pb2)
SERVICE = "ledger.v1.LedgerService"
TIMESTAMP, DATE, STATUS = "google.protobuf.Timestamp", "google.type.Date", "google.rpc.Status"

ORDER_FIELDS = (
    "payment_id:string payer_account_id:string payee_account_id:string "
    "payee_restaurant_id:string amount_minor:int64 currency:string capture:CaptureMode "
    f"fee_minor:int64 expires_at:{TIMESTAMP} reference:string metadata:map<string,string>"
)
# The names that callers rely on, with their types. `*` stands for repeated; the type of a message
# or an enum is its name.
PROMISED_FIELDS = {
    "ProcessorEvent": (
        "event_id:string type:EventType restaurant_id:string currency:string "
        "amount_minor:int64 fee_minor:int64 "
        f"occurred_at:{TIMESTAMP} payout_id:string reference:string metadata:map<string,string> "
        f"available_at:{TIMESTAMP} processor_fee_minor:int64 "
        "bank_reference:string failure_code:string failure_text:string"
    ),
    "IngestEventRequest": "event:ProcessorEvent",
    "IngestEventResponse": "status:IngestStatus transaction_id:string",
    "BatchIngestEventsRequest": "events:*ProcessorEvent",
    "BatchIngestEventsResponse": "results:*IngestResult",
    "IngestResult": f"status:IngestStatus transaction_id:string error:{STATUS}",
    "ListEventsRequest": (
        "restaurant_id:string reference:string types:*EventType currency:string "
        f"start_at:{TIMESTAMP} end_at:{TIMESTAMP} event_id_prefix:string with_entries:bool "
        "page_size:int32 page_token:string"
    ),
    "ListEventsResponse": "events:*ListedEvent payouts:*Payout next_page_token:string",
    "ListedEvent": (
        f"event:ProcessorEvent transaction_id:string recorded_at:{TIMESTAMP} entries:*EventEntry"
    ),
    "EventEntry": "entry:LedgerEntry counted_by_payout_id:string is_payout_unknown:bool",
    "PreviewEventRequest": "event:ProcessorEvent",
    "PreviewEventResponse": (
        "status:IngestStatus entries:*LedgerEntry payout_state:PayoutState "
        "registers_restaurant:bool transaction_id:string"
    ),
    "ListBalancesRequest": (
        "currency:string restaurant_id_prefix:string in_the_red:bool held:bool "
        "min_available_minor:int64 with_sums:bool page_size:int32 page_token:string"
    ),
    "ListBalancesResponse": (
        "balances:*RestaurantBalance totals:BalanceTotals next_page_token:string"
    ),
    "RestaurantBalance": (
        "restaurant_id:string available_minor:int64 pending_minor:int64 reserved_minor:int64 "
        f"disputed_minor:int64 reserve_held_minor:int64 last_event_at:{TIMESTAMP} "
        f"as_of:{TIMESTAMP}"
    ),
    "BalanceTotals": (
        "restaurants_count:int64 available_minor:int64 pending_minor:int64 reserved_minor:int64 "
        "disputed_minor:int64 reserve_held_minor:int64"
    ),
    "ListMaturitiesRequest": "restaurant_id:string currency:string days:int32",
    "ListMaturitiesResponse": f"maturities:*Maturity later_minor:int64 as_of:{TIMESTAMP}",
    "Maturity": f"as_of:{DATE} amount_minor:int64 entries_count:int64",
    "ListPayoutEntriesRequest": (
        "payout_id:string entry_types:*EntryType page_size:int32 page_token:string"
    ),
    "ListPayoutEntriesResponse": "entries:*LedgerEntry next_page_token:string",
    "GetBalanceRequest": f"restaurant_id:string currency:string as_of:{TIMESTAMP}",
    "GetBalanceResponse": (
        "restaurant_id:string currency:string "
        "available_minor:int64 pending_minor:int64 reserved_minor:int64 "
        f"disputed_minor:int64 last_event_at:{TIMESTAMP} as_of:{TIMESTAMP} "
        "reserve_held_minor:int64"
    ),
    "RunPayoutsRequest": (
        f"currency:string as_of:{DATE} min_amount_minor:int64 request_id:string dry_run:bool "
        "restaurant_ids:*string"
    ),
    "RunPayoutsResponse": "payout_run:PayoutRun items:*PayoutRunItem",
    "PayoutRun": (
        f"payout_run_id:string currency:string as_of:{DATE} cutoff_at:{TIMESTAMP} "
        "min_amount_minor:int64 state:PayoutRunState "
        "payouts_created:int64 total_amount_minor:int64 restaurants_considered:int64 "
        f"skipped:*SkippedCount created_at:{TIMESTAMP} finished_at:{TIMESTAMP} "
        "restaurants_named:int32"
    ),
    "PayoutRunItem": (
        "restaurant_id:string outcome:PayoutRunItemOutcome skip_reason:SkipReason "
        "payout_id:string amount_minor:int64 available_minor:int64 retained_minor:int64"
    ),
    "SkippedCount": "reason:SkipReason count:int64",
    "ListPayoutsRequest": (
        "restaurant_id:string state:PayoutState payout_run_id:string "
        f"page_size:int32 page_token:string currency:string start_at:{TIMESTAMP} "
        f"end_at:{TIMESTAMP} unanswered_since:{TIMESTAMP} submission_id:string states:*PayoutState"
    ),
    "SubmitPayoutsRequest": (
        "submission_id:string payout_run_id:string payout_ids:*string payouts_max:int32"
    ),
    "SubmitPayoutsResponse": "status:SubmitStatus submission:PayoutSubmission",
    "PayoutSubmission": (
        "submission_id:string payout_run_id:string currency:string payouts_count:int64 "
        f"total_amount_minor:int64 is_capped:bool left_out:*LeftOutCount created_at:{TIMESTAMP}"
    ),
    "LeftOutCount": "state:PayoutState count:int64",
    "QuarantinePayloadRequest": (
        "endpoint:string processor:string kind:string body:bytes headers:map<string,string> "
        f"query:string reason:string detail:string received_at:{TIMESTAMP} retry_at:{TIMESTAMP}"
    ),
    "QuarantinePayloadResponse": "status:QuarantineStatus payload:QuarantinedPayload",
    "QuarantinedPayload": (
        "quarantine_id:string endpoint:string processor:string kind:string body:bytes "
        "body_size_bytes:int32 headers:map<string,string> query:string "
        f"received_at:{TIMESTAMP} created_at:{TIMESTAMP} state:QuarantineState move_number:int32 "
        f"reason:string detail:string retry_at:{TIMESTAMP} moved_at:{TIMESTAMP} "
        "moves:*QuarantineMove"
    ),
    "QuarantineMove": (
        "number:int32 state:QuarantineState reason:string detail:string event_ids:*string "
        f"retry_at:{TIMESTAMP} actor:string recorded_at:{TIMESTAMP}"
    ),
    "ListQuarantinedRequest": (
        "endpoint:string processor:string states:*QuarantineState reason:string "
        f"end_at:{TIMESTAMP} due_at:{TIMESTAMP} oldest_first:bool with_bodies:bool "
        "page_size:int32 page_token:string"
    ),
    "ListQuarantinedResponse": "payloads:*QuarantinedPayload next_page_token:string",
    "GetQuarantinedRequest": "quarantine_id:string",
    "GetQuarantinedResponse": "payload:QuarantinedPayload",
    "GetQuarantineSummaryRequest": "endpoint:string",
    "GetQuarantineSummaryResponse": (
        f"counts:*QuarantineCount open_count:int64 oldest_created_at:{TIMESTAMP}"
    ),
    "QuarantineCount": (
        "endpoint:string state:QuarantineState reason:string count:int64 "
        f"oldest_created_at:{TIMESTAMP}"
    ),
    "RetryQuarantinedRequest": (
        "quarantine_ids:*string endpoint:string reason:string all:bool dry_run:bool"
    ),
    "RetryQuarantinedResponse": ("quarantine_ids:*string left_count:int64 unchanged_count:int32"),
    "ResolveQuarantinedRequest": (
        "quarantine_id:string move_number:int32 outcome:QuarantineState event_ids:*string "
        f"reason:string detail:string retry_at:{TIMESTAMP}"
    ),
    "ResolveQuarantinedResponse": "payload:QuarantinedPayload",
    "DiscardQuarantinedRequest": "quarantine_id:string reason:string",
    "DiscardQuarantinedResponse": "payload:QuarantinedPayload",
    "CancelPayoutRequest": "payout_id:string",
    "CancelPayoutResponse": "payout:Payout",
    "ListPayoutsResponse": "payouts:*Payout next_page_token:string",
    "ListEntriesRequest": (
        f"restaurant_id:string currency:string start_at:{TIMESTAMP} end_at:{TIMESTAMP} "
        "entry_types:*EntryType event_id:string payout_id:string page_size:int32 page_token:string"
    ),
    "GetPayoutRunRequest": "payout_run_id:string",
    "ListPayoutRunsRequest": (
        "currency:string state:PayoutRunState page_size:int32 page_token:string"
    ),
    "ListPayoutRunsResponse": "payout_runs:*PayoutRun next_page_token:string",
    "CancelPayoutRunRequest": "payout_run_id:string",
    "CancelPayoutRunResponse": "payout_run:PayoutRun",
    "GetPayoutRequest": "payout_id:string",
    "GetPayoutResponse": "payout:Payout",
    "Payout": (
        f"submission_id:string submitted_at:{TIMESTAMP} answered_at:{TIMESTAMP} "
        "bank_reference:string failure_code:string failure_text:string "
        "payout_id:string payout_run_id:string restaurant_id:string currency:string "
        f"amount_minor:int64 as_of:{DATE} state:PayoutState items:*PayoutItem "
        "retained_minor:int64 retained_before_minor:int64"
    ),
    "PayoutItem": "type:EntryType amount_minor:int64",
    "UpdateRestaurantRequest": (
        "restaurant:Restaurant update_mask:google.protobuf.FieldMask allow_missing:bool"
    ),
    "Restaurant": (
        "restaurant_id:string name:string active:bool maturity_days:int32 "
        f"metadata:map<string,string> created_at:{TIMESTAMP} updated_at:{TIMESTAMP} etag:string "
        "payout_hold:PayoutHold min_balance_minor:map<string,int64>"
    ),
    "PayoutHold": f"reason:string until:{TIMESTAMP}",
    "LedgerEntry": (
        "transaction_id:string position:int32 type:EntryType debit_account:LedgerAccount "
        "credit_account:LedgerAccount amount_minor:int64 restaurant_id:string currency:string "
        f"available_at:{TIMESTAMP} occurred_at:{TIMESTAMP} recorded_at:{TIMESTAMP} "
        "event_id:string payout_id:string account_id:string payment_id:string"
    ),
    "Account": (
        "account_id:string currency:string name:string overdraft:Overdraft state:AccountState "
        f"metadata:map<string,string> created_at:{TIMESTAMP} updated_at:{TIMESTAMP} etag:string"
    ),
    "Overdraft": "limit_minor:int64 unlimited:bool",
    "CreateAccountRequest": (
        "account_id:string currency:string name:string overdraft:Overdraft "
        "metadata:map<string,string>"
    ),
    "CreateAccountResponse": "status:CreateAccountStatus account:Account",
    "UpdateAccountRequest": "account:Account update_mask:google.protobuf.FieldMask",
    "UpdateAccountResponse": "account:Account",
    "GetAccountRequest": "account_id:string",
    "GetAccountResponse": "account:Account",
    "ListAccountsRequest": "page_size:int32 page_token:string",
    "ListAccountsResponse": "accounts:*Account next_page_token:string",
    "GetAccountBalanceRequest": f"account_id:string as_of:{TIMESTAMP}",
    "GetAccountBalanceResponse": (
        "account_id:string currency:string available_minor:int64 held_minor:int64 "
        f"posted_minor:int64 as_of:{TIMESTAMP}"
    ),
    "ListAccountEntriesRequest": (
        f"account_id:string start_at:{TIMESTAMP} end_at:{TIMESTAMP} entry_types:*EntryType "
        "payment_id:string page_size:int32 page_token:string"
    ),
    "ListAccountEntriesResponse": (
        "entries:*AccountEntry opening_balance_minor:int64 closing_balance_minor:int64 "
        "next_page_token:string"
    ),
    "AccountEntry": "entry:LedgerEntry balance_minor:int64",
    "AuthorizePaymentRequest": ORDER_FIELDS,
    "PaymentOrder": f"{ORDER_FIELDS} linked:bool",
    "Transfer": (
        "payment_id:string payer_account_id:string payee_account_id:string "
        "payee_restaurant_id:string amount_minor:int64 currency:string fee_minor:int64 "
        "reference:string metadata:map<string,string> linked:bool"
    ),
    "AuthorizePaymentResponse": "status:PaymentStatus payment:Payment",
    "BatchAuthorizePaymentsRequest": "payments:*PaymentOrder",
    "BatchAuthorizePaymentsResponse": "results:*PaymentResult",
    "BatchTransfersRequest": "transfers:*Transfer",
    "BatchTransfersResponse": "results:*PaymentResult",
    "PaymentResult": (
        f"status:PaymentStatus decline_reason:DeclineReason transaction_id:string error:{STATUS}"
    ),
    "Payment": (
        f"{ORDER_FIELDS} state:PaymentState decline_reason:DeclineReason captured_minor:int64 "
        f"refunded_minor:int64 held_minor:int64 transaction_id:string created_at:{TIMESTAMP}"
    ),
    "PaymentOperation": (
        "operation_id:string kind:OperationKind amount_minor:int64 released_minor:int64 "
        "is_final:bool decline_reason:DeclineReason transaction_id:string state:PaymentState "
        f"captured_minor:int64 refunded_minor:int64 created_at:{TIMESTAMP}"
    ),
    "CapturePaymentRequest": (
        "operation_id:string payment_id:string amount_minor:int64 is_final:bool"
    ),
    "VoidPaymentRequest": "operation_id:string payment_id:string",
    "RefundPaymentRequest": "operation_id:string payment_id:string amount_minor:int64",
    "ReversePaymentRequest": "operation_id:string payment_id:string",
    **{
        f"{operation}PaymentResponse": (
            "status:OperationStatus operation:PaymentOperation payment:Payment"
        )
        for operation in ("Capture", "Void", "Refund", "Reverse")
    },
    "GetPaymentRequest": "payment_id:string",
    "GetPaymentResponse": "payment:Payment operations:*PaymentOperation entries:*LedgerEntry",
    "ListPaymentsRequest": (
        "payer_account_id:string payee_account_id:string payee_restaurant_id:string "
        "state:PaymentState page_size:int32 page_token:string"
    ),
    "ListPaymentsResponse": "payments:*Payment next_page_token:string",
}
PROMISED_VALUES = {
    "EventType": (
        "CHARGE_SUCCEEDED REFUND_SUCCEEDED FEE_ASSESSED ADJUSTMENT_CREDITED ADJUSTMENT_DEBITED "
        "DISPUTE_OPENED DISPUTE_WON DISPUTE_LOST PAYOUT_PAID PAYOUT_FAILED REFUND_FAILED "
        "CHARGE_REVERSED FEE_REFUNDED DISPUTE_FEE_REFUNDED PROCESSOR_FEE_ASSESSED "
        "PROCESSOR_FEE_REFUNDED TAX_WITHHELD TAX_WITHHOLDING_REVERSED RESERVE_HELD "
        "RESERVE_RELEASED TOP_UP_RECEIVED DEBT_WRITTEN_OFF PROCESSOR_SETTLED "
        "PROCESSOR_SETTLEMENT_DEBITED PAYOUT_SUBMITTED PAYOUT_CANCELED PAYOUT_REFERENCED"
    ),
    "IngestStatus": "CREATED DUPLICATE",
    "PayoutRunState": "RUNNING SUCCEEDED PLANNED CANCELED",
    "PayoutState": "CREATED PAID FAILED RETURNED SUBMITTED CANCELED",
    "SubmitStatus": "CREATED DUPLICATE",
    "QuarantineState": "QUARANTINED RETRY_REQUESTED PARKED RELEASED DISCARDED",
    "QuarantineStatus": "CREATED DUPLICATE",
    "AccountState": "OPEN FROZEN CLOSED",
    "CreateAccountStatus": "CREATED DUPLICATE",
    "CaptureMode": "IMMEDIATE MANUAL",
    "PaymentStatus": "AUTHORIZED CAPTURED DECLINED DUPLICATE",
    "OperationStatus": "APPLIED DECLINED DUPLICATE",
    "PaymentState": "AUTHORIZED PARTIALLY_CAPTURED CAPTURED VOIDED EXPIRED DECLINED",
    "OperationKind": "CAPTURE VOID REFUND REVERSE EXPIRE",
    "DeclineReason": (
        "INSUFFICIENT_FUNDS ACCOUNT_FROZEN ACCOUNT_CLOSED CURRENCY_MISMATCH "
        "PAYMENT_NOT_CAPTURABLE AMOUNT_EXCEEDS_AUTHORIZED PAYMENT_NOT_VOIDABLE "
        "PAYMENT_NOT_REFUNDABLE AMOUNT_EXCEEDS_CAPTURED PAYMENT_NOT_REVERSIBLE EXPIRED "
        "LINKED_PAYMENT_DECLINED"
    ),
}
PROMISED_LEDGER_METHODS = {
    *("IngestEvent", "BatchIngestEvents", "StreamEvents", "GetEvent", "GetBalance", "ListEntries"),
    *("ListEvents", "PreviewEvent", "ListBalances", "ListMaturities", "ListPayoutEntries"),
    *(
        "RunPayouts",
        "GetPayoutRun",
        "ListPayoutRuns",
        "CancelPayoutRun",
        "ListPayoutRunItems",
        "GetPayout",
        "ListPayouts",
        "SubmitPayouts",
        "CancelPayout",
    ),
    *("PutRestaurant", "UpdateRestaurant", "GetRestaurant", "ListRestaurants"),
    *("QuarantinePayload", "ListQuarantined", "GetQuarantined", "GetQuarantineSummary"),
    *("RetryQuarantined", "ResolveQuarantined", "DiscardQuarantined"),
}
PROMISED_METHODS = {
    "LedgerService": PROMISED_LEDGER_METHODS,
    "AccountService": {
        *("CreateAccount", "UpdateAccount", "GetAccount", "ListAccounts"),
        *("GetAccountBalance", "ListAccountEntries"),
    },
    "PaymentService": {
        *("AuthorizePayment", "BatchAuthorizePayments", "BatchTransfers"),
        *("CapturePayment", "VoidPayment", "RefundPayment", "ReversePayment"),
        *("GetPayment", "ListPayments"),
    },
}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorSet:
    """The proto files with their comments."""
    target = tmp_path_factory.mktemp("contract") / "contract.binpb"
    arguments = [
        "protoc",
        f"-I{PROTO}",
        f"-I{files('grpc_tools') / '_proto'}",
        f"-I{Path(next(iter(google.rpc.__path__))).parent.parent}",
        "--include_source_info",
        f"--descriptor_set_out={target}",
        *(module.DESCRIPTOR.name for module in MODULES),
    ]
    assert protoc.main(arguments) == 0
    return descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())


def elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Everything in a file that has a name, with the path under which its comment is kept
    (descriptor.proto, SourceCodeInfo).
    """
    for place, message in enumerate(file.message_type):
        yield from _message_elements(message, (4, place))
    for place, enum in enumerate(file.enum_type):
        yield enum.name, (5, place)
        for number, value in enumerate(enum.value):
            yield value.name, (5, place, 2, number)
    for place, service in enumerate(file.service):
        yield service.name, (6, place)
        for number, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (6, place, 2, number)


def _message_elements(
    message: descriptor_pb2.DescriptorProto, path: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    if message.options.map_entry:
        return
    yield message.name, path
    for number, field in enumerate(message.field):
        yield f"{message.name}.{field.name}", (*path, 2, number)
    for place, nested in enumerate(message.nested_type):
        yield from _message_elements(nested, (*path, 3, place))


def files_with_comments(
    contract: descriptor_pb2.FileDescriptorSet,
) -> Iterator[tuple[descriptor_pb2.FileDescriptorProto, dict[tuple[int, ...], str]]]:
    """Every file with the comments before its elements, by their paths."""
    for file in contract.file:
        yield (
            file,
            {tuple(place.path): place.leading_comments for place in file.source_code_info.location},
        )


def fields_of(
    contract: descriptor_pb2.FileDescriptorSet,
) -> Iterator[tuple[str, FieldDescriptorProto]]:
    """Every field with the name of its message."""
    for file in contract.file:
        for message in file.message_type:
            for field in message.field:
                yield message.name, field


def spelled(field: FieldDescriptorProto) -> str:
    """The type of a field as the tables above write it."""
    name = field.type_name.removeprefix(".").removeprefix("ledger.v1.")
    if name.endswith((".MetadataEntry", ".HeadersEntry")):
        return "map<string,string>"
    if name.endswith(".MinBalanceMinorEntry"):
        return "map<string,int64>"
    repeated = "*" if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    return repeated + (
        name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    )


def test_everything_in_the_contract_has_a_comment(
    contract: descriptor_pb2.FileDescriptorSet,
) -> None:
    """Every message, field, enum, value, service and method is explained in a sentence."""
    for file, comments in files_with_comments(contract):
        without_comment = [
            name
            for name, path in elements(file)
            if not re.match(r"[A-Z0-9`].*[.:}]$", comments.get(path, "").strip(), re.DOTALL)
        ]
        assert without_comment == []


def test_comments_of_methods_name_statuses_and_the_effect_of_a_repeat(
    contract: descriptor_pb2.FileDescriptorSet,
) -> None:
    """At least INVALID_ARGUMENT. A method that only reads has no effect to describe."""
    for file, comments in files_with_comments(contract):
        for place, service in enumerate(file.service):
            for number, method in enumerate(service.method):
                comment = comments[(6, place, 2, number)]
                if not method.client_streaming:
                    assert "INVALID_ARGUMENT" in comment, f"say when {method.name} returns it"
                if not method.name.startswith(("Get", "List")):
                    assert "On repeat:" in comment, f"say what a repeat of {method.name} does"


def test_comments_of_amounts_name_the_unit(contract: descriptor_pb2.FileDescriptorSet) -> None:
    """The comment of the field does, or that of its message."""
    for file, comments in files_with_comments(contract):
        for place, message in enumerate(file.message_type):
            for number, field in enumerate(message.field):
                if field.name.endswith("_minor"):
                    comment = comments[(4, place, 2, number)] + comments[(4, place)]
                    assert "minor units" in comment or "amount" in comment.lower(), (
                        f"{message.name}.{field.name}"
                    )


def test_every_method_has_its_own_request_and_response(
    contract: descriptor_pb2.FileDescriptorSet,
) -> None:
    """They are named after it. So each message can grow without the others."""
    services = [service for file in contract.file for service in file.service]
    methods = {service.name: {method.name for method in service.method} for service in services}
    assert methods == PROMISED_METHODS, "add a new method to PROMISED_METHODS; remove none"
    all_methods = [method for service in services for method in service.method]
    used = [name for method in all_methods for name in (method.input_type, method.output_type)]
    assert len(used) == len(set(used))
    for method in all_methods:
        assert method.input_type == f".ledger.v1.{method.name}Request"
        assert method.output_type == f".ledger.v1.{method.name}Response"
        streaming = method.name == "StreamEvents"
        assert (method.client_streaming, method.server_streaming) == (streaming, streaming)


@pytest.mark.parametrize("message", PROMISED_FIELDS)
def test_promised_fields_exist(contract: descriptor_pb2.FileDescriptorSet, message: str) -> None:
    """Callers rely on these names and types."""
    existing = {
        field.name: spelled(field) for owner, field in fields_of(contract) if owner == message
    }
    promised = dict(pair.split(":", 1) for pair in PROMISED_FIELDS[message].split())
    assert {name: existing.get(name) for name in promised} == promised


@pytest.mark.parametrize("enum", PROMISED_VALUES)
def test_promised_values_exist(enum: str) -> None:
    """Callers rely on these names, which have the prefix of their enum."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum).upper()
    (names,) = [
        module.DESCRIPTOR.enum_types_by_name[enum].values_by_name
        for module in MODULES
        if enum in module.DESCRIPTOR.enum_types_by_name
    ]
    assert {f"{prefix}_{name}" for name in PROMISED_VALUES[enum].split()} <= set(names)


def test_comment_of_every_enum_says_that_it_grows(
    contract: descriptor_pb2.FileDescriptorSet,
) -> None:
    """A client may receive values that a later version of the server has added."""
    for file, comments in files_with_comments(contract):
        missing = [
            enum.name
            for place, enum in enumerate(file.enum_type)
            if "This enum grows: expect values that you do not know"
            not in " ".join(comments[(5, place)].split())
        ]
        assert missing == []


def test_every_enum_begins_with_unspecified() -> None:
    """0 is what an unset field has, and means nothing else. Every value has its enum's prefix."""
    for module in MODULES:
        for name, enum in module.DESCRIPTOR.enum_types_by_name.items():
            prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
            assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
            assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


def test_money_fields_are_int64_and_named_minor(contract: descriptor_pb2.FileDescriptorSet) -> None:
    """A field named like money ends in `_minor` and is int64. No field is a float."""
    for message, field in fields_of(contract):
        kind = spelled(field)
        assert kind not in {"float", "double"}
        if field.name.endswith("_minor"):
            assert kind in {"int64", "map<string,int64>"}
        if kind == "int64":
            is_count = field.name in {
                "count",
                "payouts_created",
                "payouts_count",
                "restaurants_considered",
                "restaurants_total",
                "restaurants_count",
                "entries_count",
                "open_count",
                "left_count",
            }
            assert field.name.endswith("_minor") or is_count, f"{message}.{field.name}"
        if field.type == field.TYPE_MESSAGE:
            continue
        assert not re.search(r"amount|balance|total|fee(_|$)", field.name) or field.name.endswith(
            ("_minor", "_total")
        ), field.name


def test_names_of_instants_end_in_at(contract: descriptor_pb2.FileDescriptorSet) -> None:
    """Timestamps are named `…_at`, `…_since`, `as_of` or `until`, and no other field is. `as_of`
    may be a date.
    """
    for message, field in fields_of(contract):
        kind = spelled(field)
        has_name_of_an_instant = field.name.endswith(("_at", "_since")) or field.name in {
            "as_of",
            "until",
        }
        assert (kind in {TIMESTAMP, DATE}) == has_name_of_an_instant, f"{message}.{field.name}"
        assert kind != DATE or field.name == "as_of", f"{message}.{field.name}"


def test_json_keeps_amounts_beyond_2_to_the_53() -> None:
    """They are strings there, so no JSON parser rounds them."""
    balance = ledger_pb2.GetBalanceResponse(
        available_minor=2**63 - 1, pending_minor=-(2**63), reserved_minor=2**53 + 1
    )
    in_json = json.loads(json_format.MessageToJson(balance))
    assert in_json == {
        "availableMinor": str(2**63 - 1),
        "pendingMinor": str(-(2**63)),
        "reservedMinor": str(2**53 + 1),
    }
    assert json_format.Parse(json.dumps(in_json), ledger_pb2.GetBalanceResponse()) == balance


@pytest.mark.parametrize(
    "text",
    ['"12.5"', "12.5", '"1e400"', "NaN", '"NaN"', '"twelve"', "true", "9223372036854775808"],
)
def test_amount_that_is_no_integer_is_refused_by_json(text: str) -> None:
    """A gateway that takes amounts in JSON never rounds one."""
    with pytest.raises(json_format.ParseError):
        json_format.Parse(
            f'{{"event": {{"amountMinor": {text}}}}}', ledger_pb2.IngestEventRequest()
        )


@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29T00:00:00Z",
        "2016-12-31T23:59:60Z",
        "today",
        "10000-01-01T00:00:00Z",
        "2026-02-30",
    ],
)
def test_instant_that_does_not_exist_is_refused_by_json(text: str) -> None:
    """Leap seconds and days like February 30 are errors before a request is sent."""
    with pytest.raises(json_format.ParseError):
        json_format.Parse(
            f'{{"event": {{"occurredAt": "{text}"}}}}', ledger_pb2.IngestEventRequest()
        )


def test_every_file_names_its_package_in_each_language() -> None:
    """The same in each file, and a class of its own for each file's own names in Java."""
    options = [json_format.MessageToDict(module.DESCRIPTOR.GetOptions()) for module in MODULES]
    classes = {option.pop("javaOuterClassname") for option in options}
    assert classes == {"LedgerProto", "AccountProto", "PaymentProto", "ErrorReasonProto"}
    for option in options:
        assert option == {
            "csharpNamespace": "Ledger.V1",
            "goPackage": "ledger.example/ledger/v1;ledgerv1",
            "javaMultipleFiles": True,
            "javaPackage": "example.ledger.v1",
            "objcClassPrefix": "LDG",
            "phpMetadataNamespace": "Ledger\\V1\\GPBMetadata",
            "phpNamespace": "Ledger\\V1",
            "rubyPackage": "Ledger::V1",
        }


def test_json_keeps_an_event_unchanged() -> None:
    """In the JSON mapping of protobuf."""
    event = event_message(amount_minor=10**12, metadata={"a": "\u20ac"})
    event.occurred_at.CopyFrom(Timestamp(seconds=1, nanos=123_456_000))
    in_json = json_format.MessageToJson(event)
    assert json.loads(in_json)["occurredAt"] == "1970-01-01T00:00:01.123456Z"
    assert json_format.Parse(in_json, ledger_pb2.ProcessorEvent()) == event


def test_service_config_names_methods_that_exist() -> None:
    """The file beside the stubs equals that of the contract, and repeats calls for three statuses
    only.
    """
    shipped = files("ledger.v1") / "service_config.json"
    text = shipped.read_text()
    assert text == (PROTO / "ledger" / "v1" / "service_config.json").read_text()
    settings = json.loads(text)
    named = [name for entry in settings["methodConfig"] for name in entry["name"]]
    services = {f"ledger.v1.{name}": methods for name, methods in PROMISED_METHODS.items()}
    assert {name["service"] for name in named} == set(services)
    assert all(name["method"] in services[name["service"]] for name in named if "method" in name)
    assert len({json.dumps(name, sort_keys=True) for name in named}) == len(named)
    policies = [
        entry["retryPolicy"] for entry in settings["methodConfig"] if "retryPolicy" in entry
    ]
    assert policies
    for policy in policies:
        assert policy["retryableStatusCodes"] == ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"]


async def test_channel_with_the_service_config_makes_calls(shared_ledger: RunningLedger) -> None:
    """With settings that gRPC cannot read, every call would fail."""
    text = (files("ledger.v1") / "service_config.json").read_text()
    async with aio.insecure_channel(
        shared_ledger.address, options=[("grpc.service_config", text)]
    ) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        response = await stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
        assert response.status == ledger_pb2.INGEST_STATUS_CREATED


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED],
    ids=lambda code: code.name,
)
async def test_service_config_repeats_a_large_call_once_it_failed(code: grpc.StatusCode) -> None:
    """After CANCELLED too: gRPC itself returns it for a server that stops or is overloaded."""
    attempts: list[int] = []

    async def respond(request: bytes, context: Any) -> bytes:
        attempts.append(len(request))
        if len(attempts) == 1:
            await context.abort(code)
        return b""

    server = aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(respond, None, None)
    methods = grpc.method_handlers_generic_handler(SERVICE, {"BatchIngestEvents": handler})
    server.add_generic_rpc_handlers((methods,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with Ledger(f"127.0.0.1:{port}") as ledger:
            events = [event_message(metadata={"note": "x" * 400}) for _ in range(1000)]
            request = ledger_pb2.BatchIngestEventsRequest(events=events)
            response = await asyncio.to_thread(ledger.service.BatchIngestEvents, request)
        assert response == ledger_pb2.BatchIngestEventsResponse()
        assert attempts == [request.ByteSize()] * 2
        assert request.ByteSize() > 400_000
    finally:
        await server.stop(0)


# The ordinary code of a caller, and code in which a type checker must find each wrong line.
TYPED_CALLER = """
import asyncio
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from grpc import aio
from ledger.v1 import error_reason_pb2, ledger_pb2, ledger_pb2_grpc, payment_pb2, payment_pb2_grpc


async def requests(
    event: ledger_pb2.ProcessorEvent,
) -> AsyncIterator[ledger_pb2.StreamEventsRequest]:
    yield ledger_pb2.StreamEventsRequest(event=event)


async def main() -> int:
    async with aio.insecure_channel("127.0.0.1:50051") as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        event = ledger_pb2.ProcessorEvent(
            event_id="evt_1",
            type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
            restaurant_id="res_1",
            currency="PEN",
            amount_minor=1250,
            fee_minor=100,
            occurred_at=Timestamp(seconds=1_700_000_000),
            metadata={"order": "17"},
        )
        response = await stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event), timeout=5)
        created: bool = response.status == ledger_pb2.INGEST_STATUS_CREATED
        transaction_id: str = response.transaction_id
        batch = await stub.BatchIngestEvents(ledger_pb2.BatchIngestEventsRequest(events=[event]))
        refused: int = sum(
            result.error.code for result in batch.results if result.HasField("error")
        )
        async for streamed in stub.StreamEvents(requests(event)):
            status: ledger_pb2.IngestStatus.ValueType = streamed.result.status
            print(ledger_pb2.IngestStatus.Name(status))
        balance = await stub.GetBalance(
            ledger_pb2.GetBalanceRequest(restaurant_id="res_1", currency="PEN")
        )
        available: int = balance.available_minor
        run = await stub.RunPayouts(
            ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=Date(year=2026, month=1, day=31))
        )
        is_running: bool = run.payout_run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING
        reason: str = error_reason_pb2.ErrorReason.Name(
            error_reason_pb2.ERROR_REASON_EVENT_ID_REUSED
        )
        last_event_at = balance.last_event_at.ToDatetime()
        print(created, transaction_id, refused, is_running, reason, last_event_at)
        payments = payment_pb2_grpc.PaymentServiceStub(channel)
        paid = await payments.AuthorizePayment(
            payment_pb2.AuthorizePaymentRequest(
                payment_id="pay_1",
                payer_account_id="acc_1",
                payee_restaurant_id="res_1",
                amount_minor=1250,
                currency="PEN",
                capture=payment_pb2.CAPTURE_MODE_IMMEDIATE,
            )
        )
        declined: bool = paid.status == payment_pb2.PAYMENT_STATUS_DECLINED
        held: int = paid.payment.held_minor
        print(declined, payment_pb2.DeclineReason.Name(paid.payment.decline_reason), held)
        return available


asyncio.run(main())
"""
MISTYPED_CALLER = """
from ledger.v1 import ledger_pb2, ledger_pb2_grpc, payment_pb2


async def main(stub: "ledger_pb2_grpc.LedgerServiceAsyncStub") -> None:
    ledger_pb2.ProcessorEvent(amount_minor="12.50")
    ledger_pb2.ProcessorEvent(amount=1250)
    ledger_pb2.ProcessorEvent(type="charge")
    await stub.IngestEvent(ledger_pb2.GetEventRequest(event_id="evt_1"))
    await stub.DeleteEvent(ledger_pb2.GetEventRequest(event_id="evt_1"))
    amount: str = (await stub.GetBalance(ledger_pb2.GetBalanceRequest())).available_minor
    payment_pb2.AuthorizePaymentRequest(capture="IMMEDIATE")
    payment_pb2.Transfer(payer_id="acc_1")
    await stub.AuthorizePayment(payment_pb2.AuthorizePaymentRequest())
"""


def test_type_checker_accepts_right_calls_and_finds_wrong_ones(tmp_path: Path) -> None:
    """`mypy --strict` accepts ordinary use of the stubs, and finds an error in each wrong line."""
    typed, mistyped = tmp_path / "typed_caller.py", tmp_path / "mistyped_caller.py"
    typed.write_text(TYPED_CALLER)
    mistyped.write_text(MISTYPED_CALLER)
    # Google's common protos do not declare that they are typed: every caller's mypy settings must.
    configuration = tmp_path / "mypy.ini"
    configuration.write_text(
        "[mypy]\n[mypy-google.rpc.*,google.type.*]\nfollow_untyped_imports = True\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        f"--config-file={configuration}",
        # Kept, so that only the first run reads the types of gRPC and protobuf.
        f"--cache-dir={ROOT / '.cache' / 'mypy-of-callers'}",
        "--no-error-summary",
        "--hide-error-context",
        str(typed),
        str(mistyped),
    ]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    finished = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.stderr == ""
    errors = [line for line in finished.stdout.splitlines() if ": error:" in line]
    wrong = [
        number
        for number, line in enumerate(MISTYPED_CALLER.splitlines(), 1)
        if line.startswith("    ")
    ]
    found = [re.match(r"mistyped_caller\.py:(\d+): error:", line) for line in errors]
    assert all(found), finished.stdout
    assert sorted({int(match.group(1)) for match in found if match}) == wrong
