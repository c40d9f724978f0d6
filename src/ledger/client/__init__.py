"""The client of a ledger, for callers in Python.

Needs gRPC and protobuf alone: none of the packages of the server or of the command. A name is
loaded when it is first used: a program that needs Money alone does not load gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.client.async_ledger import AsyncLedger as AsyncLedger
    from ledger.client.async_pages import AsyncPages as AsyncPages
    from ledger.client.async_streams import AsyncOutcomes as AsyncOutcomes
    from ledger.client.balances import AccountBalance as AccountBalance
    from ledger.client.balances import Balance as Balance
    from ledger.client.channels import ClosedError as ClosedError
    from ledger.client.credentials import Credentials as Credentials
    from ledger.client.errors import Conflict as Conflict
    from ledger.client.errors import Contended as Contended
    from ledger.client.errors import FieldViolation as FieldViolation
    from ledger.client.errors import InvalidRequest as InvalidRequest
    from ledger.client.errors import LedgerError as LedgerError
    from ledger.client.errors import NotAllowed as NotAllowed
    from ledger.client.errors import NotAuthenticated as NotAuthenticated
    from ledger.client.errors import NotFound as NotFound
    from ledger.client.errors import NotOffered as NotOffered
    from ledger.client.errors import Overloaded as Overloaded
    from ledger.client.errors import Refused as Refused
    from ledger.client.errors import ServerFailed as ServerFailed
    from ledger.client.errors import TooSlow as TooSlow
    from ledger.client.errors import TryLater as TryLater
    from ledger.client.errors import Unavailable as Unavailable
    from ledger.client.errors import error_of_status as error_of_status
    from ledger.client.messages import new_event as new_event
    from ledger.client.messages import new_payment_order as new_payment_order
    from ledger.client.messages import new_transfer as new_transfer
    from ledger.client.money import Money as Money
    from ledger.client.outcomes import EventOutcome as EventOutcome
    from ledger.client.outcomes import PaymentOutcome as PaymentOutcome
    from ledger.client.streaming import StreamLimits as StreamLimits
    from ledger.client.sync_ledger import Ledger as Ledger
    from ledger.client.sync_pages import Pages as Pages
    from ledger.client.sync_streams import Outcomes as Outcomes
    from ledger.client.tokens import CredentialsError as CredentialsError
    from ledger.client.tokens import Token as Token

_NAMES = {
    "async_ledger": ("AsyncLedger",),
    "async_pages": ("AsyncPages",),
    "async_streams": ("AsyncOutcomes",),
    "balances": ("AccountBalance", "Balance"),
    "channels": ("ClosedError",),
    "credentials": ("Credentials",),
    "errors": (
        "Conflict",
        "Contended",
        "FieldViolation",
        "InvalidRequest",
        "LedgerError",
        "NotAllowed",
        "NotAuthenticated",
        "NotFound",
        "NotOffered",
        "Overloaded",
        "Refused",
        "ServerFailed",
        "TooSlow",
        "TryLater",
        "Unavailable",
        "error_of_status",
    ),
    "messages": ("new_event", "new_payment_order", "new_transfer"),
    "money": ("Money",),
    "outcomes": ("EventOutcome", "PaymentOutcome"),
    "streaming": ("StreamLimits",),
    "sync_ledger": ("Ledger",),
    "sync_pages": ("Pages",),
    "sync_streams": ("Outcomes",),
    "tokens": ("CredentialsError", "Token"),
}
_MODULE_BY_NAME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = list(_MODULE_BY_NAME)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULE_BY_NAME[name]}"), name)
    globals()[name] = found
    return found
