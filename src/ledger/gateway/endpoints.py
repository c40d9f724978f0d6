"""What every endpoint has in the gateway's file, whatever its processor."""

import os
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ledger.domain.fields import is_id
from ledger.domain.money import is_currency
from ledger.gateway.amounts import EXPONENT_MAX

# The headers of a delivery that are kept with it in the quarantine: signatures, what they cover,
# and what describes the sender. Never credentials.
KEPT_HEADERS = frozenset(
    {
        "content-type",
        "hmacsignature",
        "stripe-signature",
        "user-agent",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
        "x-request-id",
        "x-signature",
    }
)


class Table(BaseModel):
    """A table of the file. Names that it does not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Secret(Table):
    """A secret that signs deliveries, from exactly one of a file, a variable or the text itself.

    Several secrets of an endpoint are all accepted, until `not_after`: that is how one is rotated.
    """

    name: str = Field(
        pattern="^[A-Za-z0-9._-]{1,64}$", description="What metrics and logs call it."
    )
    file: Path | None = Field(None, description="A file that holds the secret and nothing else.")
    variable: str | None = Field(None, description="An environment variable that holds it.")
    value: str | None = Field(None, description="The secret itself; better in a file.")
    not_after: datetime | None = Field(None, description="From then on it is not accepted.")

    @model_validator(mode="after")
    def _has_one_source(self) -> "Secret":
        if sum(source is not None for source in (self.file, self.variable, self.value)) != 1:
            raise ValueError("needs exactly one of file, variable and value")
        if self.not_after is not None and self.not_after.tzinfo is None:
            raise ValueError("not_after needs an offset, for example 2026-12-01T00:00:00Z")
        return self

    def read(self) -> str:
        """The secret, without blanks around it. Raises ValueError if there is none."""
        if self.file is not None:
            try:
                text = self.file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "it is no text"
                raise ValueError(f"secret {self.name}: cannot read {self.file}: {why}") from error
        elif self.variable is not None:
            text = os.environ.get(self.variable, "")
        else:
            text = self.value or ""
        # A file or a variable easily gets a line feed at its end, which nobody signs with.
        text = text.strip()
        if not text:
            raise ValueError(f"secret {self.name} is empty")
        return text


class RestaurantMapping(Table):
    """How an endpoint finds the restaurant of a fact."""

    by: Literal["account", "store", "reference", "metadata", "fixed"] = Field(
        description="What names the restaurant: the connected or merchant account, the store, the"
        " merchant's reference, a key of the metadata, or nothing but this file."
    )
    key: str = Field("", description="The key of the metadata, or the fixed restaurant id.")
    table: Mapping[str, str] = Field(
        default_factory=dict, description="Restaurant ids by what was found; empty: as found."
    )

    @model_validator(mode="after")
    def _has_its_key(self) -> "RestaurantMapping":
        if (self.by in ("metadata", "fixed")) != bool(self.key):
            raise ValueError("key goes with by = 'metadata' and by = 'fixed', and with no other")
        for restaurant_id in (*self.table.values(), *([self.key] if self.by == "fixed" else [])):
            if not is_id(restaurant_id):
                raise ValueError(
                    f"{restaurant_id!r} is no restaurant id: [A-Za-z0-9._:-], 1 to 128"
                )
        return self


class FeePolicy(Table):
    """Whose fee a charge carries: `fee_minor`, the platform's commission, of the event."""

    commission: Literal["none", "processor", "metadata", "rate", "pass_through"] = Field(
        "none",
        description="none: no commission. processor: as the processor says, for example Stripe's"
        " application fee. metadata: minor units under `key`. rate: `percent` and `fixed_minor`."
        " pass_through: what the processor costs, borne by the restaurant.",
    )
    key: str = ""
    percent: Decimal = Field(Decimal(0), ge=0, le=100, max_digits=12, decimal_places=9)
    fixed_minor: int = Field(
        0, ge=0, description="Minor units of the charge's currency, added to the percentage."
    )

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "FeePolicy":
        if (self.commission == "metadata") != bool(self.key):
            raise ValueError("key goes with commission = 'metadata', and with no other")
        if (self.commission == "rate") != bool(self.percent or self.fixed_minor):
            raise ValueError("percent or fixed_minor go with commission = 'rate', and no other")
        return self


class EndpointBase(Table):
    """One route of the gateway. A processor's module adds what only it has."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9-]{0,63}$", description="The route: /hooks/NAME.")
    mode: Literal["live", "test"]
    secrets: tuple[Secret, ...] = Field(min_length=1)
    restaurant: RestaurantMapping
    fees: FeePolicy = FeePolicy()
    exponents: Mapping[str, int] = Field(
        default_factory=dict,
        description="Decimals of currencies that this processor counts otherwise than its table.",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> "EndpointBase":
        names = [secret.name for secret in self.secrets]
        if len(set(names)) != len(names):
            raise ValueError("two secrets have the same name")
        for currency, exponent in self.exponents.items():
            if not is_currency(currency) or not 0 <= exponent <= EXPONENT_MAX:
                raise ValueError(f"exponents: {currency} = {exponent} is no currency's decimals")
        return self

    @property
    def kept_headers(self) -> frozenset[str]:
        """The headers that a later try needs, in lower case."""
        return KEPT_HEADERS
