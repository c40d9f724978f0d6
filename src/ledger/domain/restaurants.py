"""Restaurants: whose money it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ledger.domain.fields import ID_RULE, METADATA_RULE, NAME_RULE, is_id, is_metadata, is_name
from ledger.errors import FieldViolation

MATURITY_DAYS_MAX = 365


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


def profile_violations(profile: RestaurantProfile) -> list[FieldViolation]:
    """Everything that keeps `profile` from being valid, in the order of the fields; empty when it is."""
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
