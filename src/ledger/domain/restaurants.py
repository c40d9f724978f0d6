"""Restaurants: whose money it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ledger.domain.fields import ID_RULE, METADATA_RULE, NAME_RULE, is_id, is_metadata, is_name
from ledger.domain.profiles import changed, etag_of
from ledger.errors import FieldViolation

MATURITY_DAYS_MAX = 365
# The fields of a profile that a change may name.
CHANGEABLE_FIELDS = frozenset({"name", "active", "maturity_days", "metadata"})


class UnknownRestaurants(StrEnum):
    """What the first event of a restaurant that is not registered does."""

    REGISTER = "register"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class RestaurantProfile:
    """What a caller may set of a restaurant. `maturity_days` None: the service's setting holds."""

    restaurant_id: str
    name: str = ""
    active: bool = True
    maturity_days: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restaurant:
    """A registered restaurant; the instants are the database's."""

    profile: RestaurantProfile
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Names this state of the profile; the same on every server."""
        profile = self.profile
        return etag_of(
            profile.name,
            profile.active,
            profile.maturity_days,
            dict(profile.metadata),
            self.updated_at.isoformat(),
        )


@dataclass(frozen=True, slots=True)
class RestaurantChange:
    """What to change of a restaurant: `fields` of the profile and single keys of its metadata.

    They get the values that `profile` has; a key that it lacks is removed. `etag`, if given, must
    be the restaurant's present one. `register` registers an unknown restaurant first.
    """

    profile: RestaurantProfile
    fields: frozenset[str]
    metadata_keys: frozenset[str] = frozenset()
    etag: str = ""
    register: bool = False

    def applied_to(self, profile: RestaurantProfile) -> RestaurantProfile:
        """Returns `profile` with the change."""
        return changed(profile, self.profile, self.fields, self.metadata_keys)


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
    return found
