"""What accounts have available, as far as it is final, remembered from one group to the next.

A remembered sum is a snapshot in the memory of the server: it counts the entries below a horizon,
below which none is ever added. The next sum of the account starts from it, and reads the entries at
and above the horizon after the locks, as every sum does: mostly those of the last few groups.

It counts in the session that has read it and in no other, and only in the same stay. A session ends
with its cluster, so no sum counts entries that a failover has lost.
"""

from collections.abc import Iterable, Mapping
from time import monotonic
from typing import NamedTuple
from weakref import WeakKeyDictionary

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import SESSION_NAME
from ledger.infrastructure.postgres.sessions.horizon import HAS_SUBSCRIPTION, STAY

# How many accounts a session remembers, at 300 to 450 bytes each: 8 MiB in all sessions.
ACCOUNTS_MAX = 3_000
# How long a sum is used after the session has read it. Meanwhile other sessions may have posted
# many entries of the account, which a stored snapshot may count.
REMEMBERED_SECONDS = 10.0

# SQL: names the session and the stay in which what is read now may be remembered; NULL if nothing
# may.
PLACE = f"""CASE WHEN NOT {HAS_SUBSCRIPTION}
    THEN current_setting('{SESSION_NAME}', true) || ' ' || {STAY} END"""


class RememberedSum(NamedTuple):
    """What an account has available by the entries below a horizon.

    `entries_count` is how many entries were counted since a snapshot was asked for.
    """

    balance_account_id: int
    horizon: str
    available_minor: str
    entries_count: int
    read_at: float


class RememberedSums:
    """What one session remembers, by account id. Nothing of it counts outside of `place`."""

    def __init__(self) -> None:
        self.place: str | None = None
        # In the order in which they were read.
        self._sums: dict[str, RememberedSum] = {}

    def of(self, account_ids: Iterable[str]) -> dict[str, RememberedSum]:
        """What is remembered of the accounts, by their ids."""
        oldest_at = monotonic() - REMEMBERED_SECONDS
        return {
            account_id: found
            for account_id in account_ids
            if (found := self._sums.get(account_id)) is not None and found.read_at >= oldest_at
        }

    def keep(self, place: str | None, sums: Mapping[str, RememberedSum]) -> None:
        """Remembers what was read in `place`; forgets what was read elsewhere."""
        if place != self.place:
            self.place = place
            self._sums.clear()
        if place is None:
            return
        for account_id, found in sums.items():
            # Removed first, so that it comes last.
            self._sums.pop(account_id, None)
            self._sums[account_id] = found
        while len(self._sums) > ACCOUNTS_MAX:
            del self._sums[next(iter(self._sums))]


_of_sessions: WeakKeyDictionary[Connection, RememberedSums] = WeakKeyDictionary()


def remembered_in(connection: Connection) -> RememberedSums:
    """What the session of the connection remembers."""
    sums = _of_sessions.get(connection)
    if sums is None:
        sums = _of_sessions[connection] = RememberedSums()
    return sums
