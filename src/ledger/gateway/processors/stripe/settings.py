"""What an endpoint of Stripe has in the gateway's file beside what every endpoint has."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from ledger.domain.money import is_currency
from ledger.gateway.endpoints import EndpointBase, Table
from ledger.gateway.fetching import Api
from ledger.gateway.payout_ids import is_payout_id
from ledger.gateway.signatures import TOLERANCE_SECONDS

STRIPE_ORIGIN = "https://api.stripe.com"


class StripePayouts(Table):
    """Which of Stripe's payouts and transfers are payouts of the ledger."""

    metadata_key: str = Field(
        "payout_id", description="The key of their metadata that holds the ledger's payout id."
    )
    table: Mapping[str, str] = Field(
        default_factory=dict, description="The ledger's payout ids by Stripe's: po_… or tr_…."
    )
    settlements: bool = Field(
        False,
        description="Whether payouts of the platform's own account, and its top-ups, are booked as"
        " money that the processor settled. Leave it false if the bank's statement is booked.",
    )

    @field_validator("table")
    @classmethod
    def _are_payout_ids(cls, table: Mapping[str, str]) -> Mapping[str, str]:
        for payout_id in table.values():
            if not is_payout_id(payout_id):
                raise ValueError(f"payouts.table: {payout_id!r} is no payout id of the ledger")
        return table


class StripeEndpoint(EndpointBase):
    """An endpoint of Stripe: its own account, a connected account, or all connected accounts."""

    processor: Literal["stripe"]
    tolerance_seconds: int = Field(
        TOLERANCE_SECONDS,
        ge=1,
        le=3600,
        description="How far the time of a signature may be from ours, before and after.",
    )
    api: Api | None = Field(
        None,
        description="Fetches fees, settlement currencies and restaurants that messages leave out."
        " Without it what needs them is in the quarantine, and fees are not booked.",
    )
    settlement_currencies: tuple[str, ...] = Field(
        (),
        description="Currencies that settle as they are. Charges in others are booked as their"
        " balance transactions say. Empty: all, or with `api` none is taken for granted.",
    )
    payouts: StripePayouts = StripePayouts()

    @field_validator("settlement_currencies")
    @classmethod
    def _are_currencies(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            if not is_currency(code):
                raise ValueError(f"settlement_currencies: {code!r} is no currency in upper case")
        return codes
