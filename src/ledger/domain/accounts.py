"""Accounts: holders of money beside the restaurants, each in one currency."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from ledger.domain.fields import ID_RULE, METADATA_RULE, NAME_RULE, is_id, is_metadata, is_name
from ledger.domain.money import CURRENCY_RULE, is_currency
from ledger.domain.profiles import changed, etag_of
from ledger.errors import FieldViolation

OVERDRAFT_LIMIT_MAX_MINOR = 10**15
# The fields of an account that a change may name.
CHANGEABLE_FIELDS = frozenset({"name", "overdraft", "state", "metadata"})
# The fields that must be the same when the opening of an account is repeated.
OPENING_FIELDS = ("currency", "name", "overdraft")
OVERDRAFT_RULE = f"must be 0 to {OVERDRAFT_LIMIT_MAX_MINOR} minor units, or unlimited"


class AccountState(StrEnum):
    """Whether an account takes part in payments."""

    OPEN = "OPEN"
    FROZEN = "FROZEN"
    CLOSED = "CLOSED"


class Overdraft(NamedTuple):
    """How far below zero an account may go, in minor units; None: without a limit."""

    limit_minor: int | None = 0


NO_OVERDRAFT = Overdraft()


@dataclass(frozen=True, slots=True)
class AccountProfile:
    """What a caller may set of an account."""

    account_id: str
    currency: str
    name: str = ""
    overdraft: Overdraft = NO_OVERDRAFT
    state: AccountState = AccountState.OPEN
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Account:
    """An account. `opened_with` is what it was opened with; the instants are the database's."""

    profile: AccountProfile
    opened_with: AccountProfile
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """Names this state of the account; the same on every server."""
        profile = self.profile
        return etag_of(
            profile.name,
            profile.overdraft.limit_minor,
            profile.state.value,
            dict(profile.metadata),
            self.updated_at.isoformat(),
        )

    def differing_fields(self, opening: AccountProfile) -> list[str]:
        """The fields in which `opening` is not what this account was opened with."""
        return [
            name
            for name in OPENING_FIELDS
            if getattr(self.opened_with, name) != getattr(opening, name)
        ]


@dataclass(frozen=True, slots=True)
class AccountChange:
    """What to change of an account: `fields` of the profile and single keys of its metadata.

    They get the values that `profile` has; a key that it lacks is removed. `etag`, if given, must
    be the account's present one.
    """

    profile: AccountProfile
    fields: frozenset[str]
    metadata_keys: frozenset[str] = frozenset()
    etag: str = ""

    @property
    def closes(self) -> bool:
        """Whether the account is to be closed."""
        return "state" in self.fields and self.profile.state is AccountState.CLOSED

    def applied_to(self, profile: AccountProfile) -> AccountProfile:
        """Returns `profile` with the change."""
        return changed(profile, self.profile, self.fields, {"metadata": self.metadata_keys})


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """What an account holds, in minor units, at the instant `as_of`."""

    account_id: str
    currency: str
    available_minor: int
    held_minor: int
    as_of: datetime

    @property
    def posted_minor(self) -> int:
        """What has not left the account."""
        return self.available_minor + self.held_minor


def profile_violations(profile: AccountProfile) -> list[FieldViolation]:
    """The violations of a profile, in the order of its fields; empty for a valid one."""
    found: list[FieldViolation] = []
    if not is_id(profile.account_id):
        found.append(FieldViolation("account_id", ID_RULE))
    if not is_currency(profile.currency):
        found.append(FieldViolation("currency", CURRENCY_RULE))
    if not is_name(profile.name):
        found.append(FieldViolation("name", NAME_RULE))
    limit_minor = profile.overdraft.limit_minor
    if limit_minor is not None and not 0 <= limit_minor <= OVERDRAFT_LIMIT_MAX_MINOR:
        found.append(FieldViolation("overdraft", OVERDRAFT_RULE))
    if not is_metadata(profile.metadata):
        found.append(FieldViolation("metadata", METADATA_RULE))
    return found
