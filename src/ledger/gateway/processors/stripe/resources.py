"""Amounts as they settled, and what messages leave out: from the settings and Stripe's API."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from ledger.gateway.amounts import STRIPE_EXPONENTS, minor_units, processor_exponent
from ledger.gateway.deliveries import FetchFailed, Owner
from ledger.gateway.fetching import Fetcher
from ledger.gateway.payloads import Malformed, Payload
from ledger.gateway.processors.stripe.messages import Message, id_in, instant
from ledger.gateway.processors.stripe.settings import StripeEndpoint
from ledger.gateway.reasons import CannotBook

# A balance transaction of an asynchronous capture takes up to an hour.
_NOT_YET_SECONDS = 60.0
# Where a resource is, and what of it is asked for in full.
_PATHS = {
    "charge": ("charges", ("balance_transaction",)),
    "refund": ("refunds", ("balance_transaction", "charge")),
    # Its balance transactions always are.
    "dispute": ("disputes", ()),
}
REFUNDS_PAGE = 100

# An amount in the ledger's minor units, and its currency.
Money = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """Whose fees a balance transaction has, in the ledger's minor units; below 0 they come back.

    `processor_minor` is Stripe's own; `application_minor` the platform's, which direct charges have
    beside it. None: there is a fee, and nothing says whose.
    """

    processor_minor: int
    application_minor: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceTransaction:
    """What moved in a balance of Stripe: `money` is signed. `payload` has its fees."""

    id: str
    money: Money
    created_at: datetime
    exchange_rate: str
    payload: Payload

    @property
    def amount_minor(self) -> int:
        return self.money[0]

    @property
    def currency(self) -> str:
        return self.money[1]


class Resources:
    """What one endpoint knows beside the message. Its methods raise Malformed and CannotBook."""

    def __init__(self, endpoint: StripeEndpoint, fetcher: Fetcher | None) -> None:
        self.endpoint = endpoint
        self.fetcher = fetcher

    def money(self, payload: Payload, name: str) -> Money:
        """An amount of the payload in its currency: zero-decimal currencies and all exceptions."""
        return self.counted(payload.integer(name), payload.text("currency"))

    def counted(self, amount: int, currency: str) -> Money:
        """Stripe's amount in the ledger's minor units."""
        code = currency.upper()
        try:
            exponent = processor_exponent(code, STRIPE_EXPONENTS, self.endpoint.exponents)
            return minor_units(amount, code, exponent), code
        except Malformed as error:
            raise CannotBook("UNKNOWN_AMOUNT", str(error)) from error

    def settles_as_it_is(self, currency: str) -> bool:
        """Whether an amount in this currency settles in it, without looking."""
        listed = self.endpoint.settlement_currencies
        return currency in listed if listed else self.fetcher is None

    async def transaction_of(
        self, message: Message, resource: Payload, field: str = "balance_transaction"
    ) -> BalanceTransaction | None:
        """The balance transaction of a charge or a refund; None: it is not known here.

        None is an answer only if the settlement currency is known without it. Raises FetchFailed.
        """
        if isinstance(resource.values.get(field), dict):
            return self.transaction(resource.child(field))
        is_known = self.settles_as_it_is(resource.text("currency").upper())
        transaction_id = id_in(resource, field)
        if self.fetcher is None:
            if is_known:
                return None
            raise CannotBook(
                "SETTLEMENT_UNKNOWN",
                f"{resource.text('currency')[:16]!r} is not in settlement_currencies, and without"
                " `api` the balance transaction cannot be fetched",
            )
        if transaction_id:
            return self.transaction(
                await self._get(message, f"/v1/balance_transactions/{transaction_id}")
            )
        if is_known:
            return None
        current = await self.fetch(message, resource.text("object"), resource.text("id"))
        if not isinstance(current.values.get(field), dict):
            raise FetchFailed(
                "the balance transaction is not made yet", retry_after_seconds=_NOT_YET_SECONDS
            )
        return self.transaction(current.child(field))

    def transaction(self, payload: Payload) -> BalanceTransaction:
        """A balance transaction that is at hand. Its fees are looked at when they are needed."""
        return BalanceTransaction(
            id=payload.text("id"),
            money=self.money(payload, "amount"),
            created_at=instant(payload, "created"),
            exchange_rate=str(payload.values.get("exchange_rate") or ""),
            payload=payload,
        )

    def fees(self, transaction: BalanceTransaction) -> Fees:
        """The fees of a balance transaction, which must be those that its details add up to."""
        payload = transaction.payload
        currency = payload.text("currency")
        fee = payload.integer("fee", 0)
        if not payload.has("fee_details"):
            return Fees(
                processor_minor=self.counted(fee, currency)[0],
                application_minor=0 if fee == 0 else None,
            )
        processor_fee = application_fee = 0
        for detail in payload.children("fee_details"):
            if detail.text("currency", currency).upper() != currency.upper():
                raise Malformed(f"{detail.path} is in another currency")
            if detail.text("type", "") == "application_fee":
                application_fee += detail.integer("amount")
            else:
                # stripe_fee, its tax, and what payment methods take.
                processor_fee += detail.integer("amount")
        if processor_fee + application_fee != fee:
            raise Malformed(f"the fees of {transaction.id[:64]} do not add up to its fee")
        return Fees(
            processor_minor=self.counted(processor_fee, currency)[0],
            application_minor=self.counted(application_fee, currency)[0],
        )

    async def fetch(self, message: Message, what: str, resource_id: str) -> Payload:
        """The resource as it is now, with its balance transactions. Raises FetchFailed."""
        if what not in _PATHS:
            raise Malformed(f"object is {what[:64]!r}")
        folder, expanded = _PATHS[what]
        return await self._get(
            message,
            f"/v1/{folder}/{resource_id}",
            [("expand[]", name) for name in expanded],
        )

    async def fetch_refunds(self, message: Message, charge_id: str) -> Iterator[Payload]:
        """All refunds of a charge. Raises FetchFailed, and CannotBook for more than a page."""
        page = await self._get(
            message,
            "/v1/refunds",
            [
                ("charge", charge_id),
                ("limit", str(REFUNDS_PAGE)),
                ("expand[]", "data.balance_transaction"),
            ],
        )
        if page.flag("has_more", False):
            raise CannotBook("TOO_MANY_REFUNDS", f"the charge has more than {REFUNDS_PAGE} refunds")
        return page.children("data")

    async def owner(
        self, message: Message, resource: Payload, charge: Payload | None = None
    ) -> Owner:
        """Whose money it is: by the resource, its charge, and, if neither says, the API's charge.

        Raises FetchFailed.
        """
        if charge is None and isinstance(resource.values.get("charge"), dict):
            charge = resource.child("charge")
        owner = _owner(message, resource, charge)
        charge_id = id_in(resource, "charge")
        if charge is None and charge_id and self.fetcher is not None and not self._names(owner):
            owner = _owner(message, resource, await self.fetch(message, "charge", charge_id))
        return owner

    def _names(self, owner: Owner) -> bool:
        mapping = self.endpoint.restaurant
        match mapping.by:
            case "account":
                return bool(owner.account)
            case "metadata":
                return mapping.key in owner.metadata
            case "reference":
                return bool(owner.reference)
            case _:
                return True

    async def _get(
        self, message: Message, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> Payload:
        if self.fetcher is None:
            raise CannotBook("API_NEEDED", f"{path} is needed: give the endpoint its `api`")
        headers = {"stripe-account": message.account} if message.account else None
        return await self.fetcher.get(path, query, headers)


def _owner(message: Message, resource: Payload, charge: Payload | None) -> Owner:
    both = [payload for payload in (resource, charge) if payload is not None]
    return Owner(
        account=message.account or next(filter(None, map(_destination, both)), ""),
        reference=next(filter(None, (payload.text("transfer_group", "") for payload in both)), ""),
        metadata={
            **(charge.texts("metadata") if charge is not None else {}),
            **resource.texts("metadata"),
        },
    )


def _destination(resource: Payload) -> str:
    """The connected account that money of the platform is for, as old and new versions say."""
    transfer = resource.child("transfer_data") if resource.has("transfer_data") else Payload({})
    for found in (
        id_in(transfer, "destination"),
        id_in(resource, "destination"),
        id_in(resource, "on_behalf_of"),
    ):
        # The destination of a payout is a bank account.
        if found.startswith("acct_"):
            return found
    return ""
