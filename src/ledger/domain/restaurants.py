"""Restaurants: whose money it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ledger.domain.fields import (
    HOLD_REASON_RULE,
    ID_RULE,
    METADATA_RULE,
    NAME_RULE,
    is_id,
    is_metadata,
    is_name,
)
from ledger.domain.money import AMOUNT_MINOR_MAX, is_currency
from ledger.domain.profiles import changed, etag_of
from ledger.errors import FieldViolation

MATURITY_DAYS_MAX = 365
# The fields of a profile that a change may name.
CHANGEABLE_FIELDS = frozenset(
    {"name", "active", "maturity_days", "metadata", "payout_hold", "min_balance_minor"}
)
MIN_BALANCE_RULE = (
    f"must be 1 to {AMOUNT_MINOR_MAX} minor units for each currency, an ISO 4217 code in upper case"
)


class UnknownRestaurants(StrEnum):
    """What the first event of a restaurant that is not registered does."""

    REGISTER = "register"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class PayoutHold:
    """Why payout runs skip a restaurant, and when that ends by the database's clock; None: when the
    hold is removed.
    """

    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RestaurantProfile:
    """What a caller may set of a restaurant.

    `maturity_days` None: the service's setting holds. `min_balance_minor` is what payout runs leave
    in the account, in minor units by currency.
    """

    restaurant_id: str
    name: str = ""
    active: bool = True
    maturity_days: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    payout_hold: PayoutHold | None = None
    min_balance_minor: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restaurant:
    """A registered restaurant; the instants are the database's."""

    profile: RestaurantProfile
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Names this state of the profile; the same on every server.

        Servers of a release without hold and minimums name a profile that has neither in the same
        way.
        """
        profile = self.profile
        hold = profile.payout_hold
        later: list[object] = []
        if hold is not None or profile.min_balance_minor:
            later = [
                hold and [hold.reason, hold.until and hold.until.isoformat()],
                dict(profile.min_balance_minor),
            ]
        return etag_of(
            profile.name,
            profile.active,
            profile.maturity_days,
            dict(profile.metadata),
            self.updated_at.isoformat(),
            *later,
        )


@dataclass(frozen=True, slots=True)
class RestaurantChange:
    """What to change of a restaurant: `fields` of the profile, and single keys of its metadata and
    of its minimums.

    They get the values that `profile` has; a key that it lacks is removed. `etag`, if given, must
    be the restaurant's present one. `register` registers an unknown restaurant first.
    """

    profile: RestaurantProfile
    fields: frozenset[str]
    metadata_keys: frozenset[str] = frozenset()
    etag: str = ""
    register: bool = False
    currencies: frozenset[str] = frozenset()

    def applied_to(self, profile: RestaurantProfile) -> RestaurantProfile:
        """Returns `profile` with the change."""
        keys = {"metadata": self.metadata_keys, "min_balance_minor": self.currencies}
        return changed(profile, self.profile, self.fields, keys)


def profile_violations(profile: RestaurantProfile) -> list[FieldViolation]:
    """The violations of a profile, in the order of its fields; empty for a valid one."""
    found: list[FieldViolation] = []
    if not is_id(profile.restaurant_id):
        found.append(FieldViolation("restaurant_id", ID_RULE))
    if not is_name(profile.name):
        found.append(FieldViolation("name", NAME_RULE))
    if profile.maturity_days is not None and not 0 <= profile.maturity_days <= MATURITY_DAYS_MAX:
        found.append(FieldViolation("maturity_days", f"must be 0 to {MATURITY_DAYS_MAX}"))
    if not is_metadata(profile.metadata):
        found.append(FieldViolation("metadata", METADATA_RULE))
    hold = profile.payout_hold
    if hold is not None and not (hold.reason and is_name(hold.reason)):
        found.append(FieldViolation("payout_hold.reason", HOLD_REASON_RULE))
    if not all(
        is_currency(currency) and 1 <= minimum <= AMOUNT_MINOR_MAX
        for currency, minimum in profile.min_balance_minor.items()
    ):
        found.append(FieldViolation("min_balance_minor", MIN_BALANCE_RULE))
    return found
