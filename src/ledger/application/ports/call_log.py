"""The table of the calls that write: who made each, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import uuid_utils.compat


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call that writes: its caller, its subject, and the name of the status it ended with."""

    identity: str
    credential: str
    method: str
    request_id: str
    peer: str
    what: Mapping[str, str | int | bool]
    outcome: str
    # Chosen here and not by the database, so that a retry of the insert adds no second row.
    audit_id: UUID = field(default_factory=uuid_utils.compat.uuid7)


class CallLogTable(Protocol):
    """Stores recorded calls."""

    async def insert(self, calls: Sequence[RecordedCall]) -> None:
        """Stores all of `calls` or none. Idempotent: a call that is stored already adds no row.

        Raises DataRejected, QueryRefused, DatabaseUnavailable, DatabaseContention,
        DatabaseTimeout.
        """
        ...
