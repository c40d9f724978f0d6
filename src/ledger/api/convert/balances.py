"""Balances, between the contract's messages and the domain."""

from ledger.api.convert.identifiers import id_violations
from ledger.api.convert.instants import decode_instant_of, encode_instant, encode_optional_instant
from ledger.application.ports.balances import BalanceQuery
from ledger.domain.balances import Balance, BalanceAccount
from ledger.domain.money import CURRENCY_RULE, is_currency
from ledger.errors import (
    FieldViolation,
    InvalidRequest,
)
from ledger.v1 import ledger_pb2


def decode_balance_query(request: ledger_pb2.GetBalanceRequest) -> BalanceQuery:
    """Returns which balance is requested. Raises InvalidRequest."""
    violations = id_violations({"restaurant_id": request.restaurant_id})
    if not is_currency(request.currency):
        violations.append(FieldViolation("currency", CURRENCY_RULE))
    as_of = decode_instant_of(request, "as_of", violations)
    if violations:
        raise InvalidRequest(violations)
    return BalanceQuery(BalanceAccount(request.restaurant_id, request.currency), as_of)


def encode_balance(balance: Balance) -> ledger_pb2.GetBalanceResponse:
    return ledger_pb2.GetBalanceResponse(
        restaurant_id=balance.account.holder_id,
        currency=balance.account.currency,
        available_minor=balance.available_minor,
        pending_minor=balance.pending_minor,
        reserved_minor=balance.reserved_minor,
        disputed_minor=balance.disputed_minor,
        reserve_held_minor=balance.reserve_held_minor,
        last_event_at=encode_optional_instant(balance.last_event_at),
        as_of=encode_instant(balance.as_of),
    )
