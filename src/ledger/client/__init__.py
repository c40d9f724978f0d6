"""The client of a ledger, for callers in Python.

Needs gRPC and protobuf alone: none of the packages of the server or of the command.
"""

from ledger.client.async_ledger import AsyncLedger
from ledger.client.async_pages import AsyncPages
from ledger.client.balances import AccountBalance, Balance
from ledger.client.channels import ClosedError
from ledger.client.credentials import Credentials
from ledger.client.errors import (
    Conflict,
    Contended,
    FieldViolation,
    InvalidRequest,
    LedgerError,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotOffered,
    Overloaded,
    Refused,
    ServerFailed,
    TooSlow,
    TryLater,
    Unavailable,
    error_of_status,
)
from ledger.client.messages import new_event, new_payment_order, new_transfer
from ledger.client.money import Money
from ledger.client.outcomes import EventOutcome, PaymentOutcome
from ledger.client.sync_ledger import Ledger
from ledger.client.sync_pages import Pages
from ledger.client.tokens import CredentialsError, Token

__all__ = [
    "AccountBalance",
    "AsyncLedger",
    "AsyncPages",
    "Balance",
    "ClosedError",
    "Conflict",
    "Contended",
    "Credentials",
    "CredentialsError",
    "EventOutcome",
    "FieldViolation",
    "InvalidRequest",
    "Ledger",
    "LedgerError",
    "Money",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "NotOffered",
    "Overloaded",
    "Pages",
    "PaymentOutcome",
    "Refused",
    "ServerFailed",
    "Token",
    "TooSlow",
    "TryLater",
    "Unavailable",
    "error_of_status",
    "new_event",
    "new_payment_order",
    "new_transfer",
]
