"""What the call log records of a call's content, by method, from its request and response.

It is short: of the caller's texts it has only ids and codes, cut off and escaped if invalid.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import EnumDescriptor

from ledger.domain import accounts, restaurants
from ledger.domain.fields import is_id
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

Content = Mapping[str, str | int | bool]
_LENGTH_SHOWN = 128


def _event(request: ledger_pb2.IngestEventRequest, _: object) -> Content:
    return {"event_id": _shown(request.event.event_id)}


def _batch(events: int, response: ledger_pb2.BatchIngestEventsResponse | None) -> Content:
    if response is None:
        return {"events": events}
    return {
        "events": events,
        "refused": sum(result.HasField("error") for result in response.results),
    }


def _restaurant(request: ledger_pb2.PutRestaurantRequest, _: object) -> Content:
    return {"restaurant_id": _shown(request.restaurant_id)}


def _restaurant_change(request: ledger_pb2.UpdateRestaurantRequest, _: object) -> Content:
    changed = _changed_fields(request.update_mask.paths) & restaurants.CHANGEABLE_FIELDS
    content: dict[str, str | int | bool] = {
        "restaurant_id": _shown(request.restaurant.restaurant_id),
        "changed": ",".join(sorted(changed)),
    }
    # Only the call log knows who put a restaurant on hold.
    if "payout_hold" in changed:
        content["on_hold"] = request.restaurant.HasField("payout_hold")
    return content


def _payout_run(
    request: ledger_pb2.RunPayoutsRequest, response: ledger_pb2.RunPayoutsResponse | None
) -> Content:
    as_of = request.as_of
    content: dict[str, str | int | bool] = {
        "currency": _shown(request.currency),
        "as_of": f"{as_of.year:04}-{as_of.month:02}-{as_of.day:02}",
        "min_amount_minor": request.min_amount_minor,
        "request_id": _shown(request.request_id),
        "dry_run": request.dry_run,
    }
    if request.restaurant_ids:
        content["restaurants_named"] = len(request.restaurant_ids)
    if response is not None:
        content["payout_run_id"] = response.payout_run.payout_run_id
    return content


def _canceled_run(request: ledger_pb2.CancelPayoutRunRequest, _: object) -> Content:
    return {"payout_run_id": _shown(request.payout_run_id)}


def _submission(
    request: ledger_pb2.SubmitPayoutsRequest, response: ledger_pb2.SubmitPayoutsResponse | None
) -> Content:
    content: dict[str, str | int | bool] = {"submission_id": _shown(request.submission_id)}
    if request.payout_run_id:
        content["payout_run_id"] = _shown(request.payout_run_id)
        content["payouts_max"] = request.payouts_max
    else:
        content["payouts"] = len(request.payout_ids)
    if response is not None:
        submission = response.submission
        content["status"] = _word(ledger_pb2.SubmitStatus.DESCRIPTOR, response.status)
        content["currency"] = submission.currency
        content["payouts_count"] = submission.payouts_count
        content["total_amount_minor"] = submission.total_amount_minor
    return content


def _canceled_payout(request: ledger_pb2.CancelPayoutRequest, _: object) -> Content:
    return {"payout_id": _shown(request.payout_id)}


def _opened_account(
    request: account_pb2.CreateAccountRequest, response: account_pb2.CreateAccountResponse | None
) -> Content:
    content: dict[str, str | int | bool] = {
        "account_id": _shown(request.account_id),
        "currency": _shown(request.currency),
        "overdraft": _overdraft(request.overdraft),
    }
    if response is not None:
        content["status"] = _word(account_pb2.CreateAccountStatus.DESCRIPTOR, response.status)
    return content


def _account_change(request: account_pb2.UpdateAccountRequest, _: object) -> Content:
    account = request.account
    changed = _changed_fields(request.update_mask.paths) & accounts.CHANGEABLE_FIELDS
    content: dict[str, str | int | bool] = {
        "account_id": _shown(account.account_id),
        "changed": ",".join(sorted(changed)),
    }
    # Only the call log knows who let an account go below zero, or froze it.
    if "overdraft" in changed:
        content["overdraft"] = _overdraft(account.overdraft)
    if "state" in changed:
        content["state"] = _word(account_pb2.AccountState.DESCRIPTOR, account.state)
    return content


def _overdraft(overdraft: account_pb2.Overdraft) -> str | int:
    return "unlimited" if overdraft.unlimited else overdraft.limit_minor


def _payment(
    request: payment_pb2.AuthorizePaymentRequest,
    response: payment_pb2.AuthorizePaymentResponse | None,
) -> Content:
    content = {
        "payment_id": _shown(request.payment_id),
        **_parties(request),
        "amount_minor": request.amount_minor,
        "currency": _shown(request.currency),
    }
    if response is not None:
        content["status"] = _word(payment_pb2.PaymentStatus.DESCRIPTOR, response.status)
        content |= _decline(response.payment.decline_reason)
    return content


# The four operations have alike requests and alike responses.
def _payment_operation(
    request: payment_pb2.CapturePaymentRequest, response: payment_pb2.CapturePaymentResponse | None
) -> Content:
    content: dict[str, str | int | bool] = {
        "operation_id": _shown(request.operation_id),
        "payment_id": _shown(request.payment_id),
    }
    if response is None:
        return content
    operation, payment = response.operation, response.payment
    return {
        **content,
        **_parties(payment),
        "amount_minor": operation.amount_minor,
        "released_minor": operation.released_minor,
        "currency": payment.currency,
        "status": _word(payment_pb2.OperationStatus.DESCRIPTOR, response.status),
        **_decline(operation.decline_reason),
    }


def _parties(
    of: payment_pb2.AuthorizePaymentRequest | payment_pb2.Payment,
) -> dict[str, str | int | bool]:
    """Who pays, and who is paid."""
    parties: dict[str, str | int | bool] = {"payer_account_id": _shown(of.payer_account_id)}
    if of.payee_restaurant_id:
        parties["payee_restaurant_id"] = _shown(of.payee_restaurant_id)
    else:
        parties["payee_account_id"] = _shown(of.payee_account_id)
    return parties


def _decline(reason: int) -> dict[str, str]:
    """The reason of what was declined; nothing of what was not."""
    if not reason:
        return {}
    return {"decline_reason": _word(payment_pb2.DeclineReason.DESCRIPTOR, reason)}


def _payment_batch(
    payments: int,
    response: payment_pb2.BatchAuthorizePaymentsResponse
    | payment_pb2.BatchTransfersResponse
    | None,
) -> Content:
    if response is None:
        return {"payments": payments}
    results = response.results
    return {
        "payments": payments,
        "declined": sum(result.decline_reason != 0 for result in results),
        "refused": sum(result.HasField("error") for result in results),
    }


def _delivery(
    request: ledger_pb2.QuarantinePayloadRequest,
    response: ledger_pb2.QuarantinePayloadResponse | None,
) -> Content:
    content: dict[str, str | int | bool] = {
        "endpoint": _shown(request.endpoint),
        "reason": _shown(request.reason),
    }
    if response is not None:
        content["quarantine_id"] = response.payload.quarantine_id
        content["status"] = _word(ledger_pb2.QuarantineStatus.DESCRIPTOR, response.status)
    return content


def _delivery_kept(request: ledger_pb2.QuarantinePayloadRequest) -> object:
    """The request without its body, which would take too much memory."""
    return ledger_pb2.QuarantinePayloadRequest(endpoint=request.endpoint, reason=request.reason)


def _quarantine_list(
    request: ledger_pb2.ListQuarantinedRequest, response: ledger_pb2.ListQuarantinedResponse | None
) -> Content:
    content: dict[str, str | int | bool] = {
        "endpoint": _shown(request.endpoint),
        "with_bodies": request.with_bodies,
    }
    if response is not None:
        content["payloads"] = len(response.payloads)
    return content


def _quarantined(
    request: ledger_pb2.GetQuarantinedRequest | ledger_pb2.DiscardQuarantinedRequest, _: object
) -> Content:
    return {"quarantine_id": _shown(request.quarantine_id)}


def _quarantine_retry(
    request: ledger_pb2.RetryQuarantinedRequest,
    response: ledger_pb2.RetryQuarantinedResponse | None,
) -> Content:
    content: dict[str, str | int | bool] = {"dry_run": request.dry_run}
    if request.quarantine_ids:
        content["payloads_named"] = len(request.quarantine_ids)
    else:
        content["endpoint"] = _shown(request.endpoint)
        content["reason"] = _shown(request.reason)
        content["all"] = request.all
    if response is not None:
        content["requested"] = len(response.quarantine_ids)
    return content


def _quarantine_outcome(request: ledger_pb2.ResolveQuarantinedRequest, _: object) -> Content:
    return {
        "quarantine_id": _shown(request.quarantine_id),
        "move_number": request.move_number,
        "outcome": _word(ledger_pb2.QuarantineState.DESCRIPTOR, request.outcome),
        "events": len(request.event_ids),
    }


@dataclass(frozen=True, slots=True)
class ContentRule:
    """How to get the content of a call's record.

    `describe` takes what was kept of the request, and the response or None. `keep` is what to keep
    of the request until then; None: all of it.
    """

    describe: Callable[[Any, Any], Content]
    keep: Callable[[Any], Any] | None = None


# One for each method that the call log records. The events of a stream are counted as they pass.
CONTENT_BY_METHOD: Mapping[str, ContentRule] = {
    "IngestEvent": ContentRule(_event),
    # The whole request would take too much memory.
    "BatchIngestEvents": ContentRule(_batch, keep=lambda request: len(request.events)),
    "StreamEvents": ContentRule(lambda _, __: {}),
    "RunPayouts": ContentRule(_payout_run),
    "CancelPayoutRun": ContentRule(_canceled_run),
    "SubmitPayouts": ContentRule(_submission),
    "CancelPayout": ContentRule(_canceled_payout),
    "PutRestaurant": ContentRule(_restaurant),
    "UpdateRestaurant": ContentRule(_restaurant_change),
    "QuarantinePayload": ContentRule(_delivery, keep=_delivery_kept),
    "ListQuarantined": ContentRule(_quarantine_list),
    "GetQuarantined": ContentRule(_quarantined),
    "RetryQuarantined": ContentRule(_quarantine_retry),
    "ResolveQuarantined": ContentRule(_quarantine_outcome),
    "DiscardQuarantined": ContentRule(_quarantined),
    "CreateAccount": ContentRule(_opened_account),
    "UpdateAccount": ContentRule(_account_change),
    "AuthorizePayment": ContentRule(_payment),
    "BatchAuthorizePayments": ContentRule(
        _payment_batch, keep=lambda request: len(request.payments)
    ),
    "BatchTransfers": ContentRule(_payment_batch, keep=lambda request: len(request.transfers)),
    "CapturePayment": ContentRule(_payment_operation),
    "VoidPayment": ContentRule(_payment_operation),
    "RefundPayment": ContentRule(_payment_operation),
    "ReversePayment": ContentRule(_payment_operation),
}


def _changed_fields(paths: Iterable[str]) -> set[str]:
    """The fields that a mask names. Without keys of metadata: callers choose those."""
    return {path.partition(".")[0] for path in paths}


def _word(enum: EnumDescriptor, number: int) -> str:
    """The name of an enum's value without its prefix; the number if the contract has none."""
    if (value := enum.values_by_number.get(number)) is None:
        return str(number)
    name: str = value.name
    return name.removeprefix(enum.values_by_number[0].name.removesuffix("UNSPECIFIED"))


def _shown(text: str) -> str:
    """An id unchanged. Of any other text the beginning, with escapes: enough to find the caller."""
    return text if is_id(text) else text[:_LENGTH_SHOWN].encode("unicode_escape").decode()
