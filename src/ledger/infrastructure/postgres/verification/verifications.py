"""Verifications of the books: whole, or of what is new since the last one, which is stored."""

import hashlib
from collections.abc import Callable
from dataclasses import astuple, replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.audit import Verification, VerificationReport
from ledger.infrastructure.postgres.seals import SELECT_POSITION, UNKNOWN_STAY
from ledger.infrastructure.postgres.sessions.clock import host_now
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.verification.audit import (
    PAYOUT_ANSWER_DAYS,
    auditing,
    make_checks,
)
from ledger.infrastructure.postgres.verification.new_rows import NEW_ROWS_TEXT
from ledger.resources import resource

# xmin has half of a txid. The other half of a row that was written since the position is known
# while fewer than 2^31 txids lie between them; this leaves room.
POSITION_AGE_MAX = 1_500_000_000
# How often an unclean verification is numbered anew if others are stored at the same time.
STORE_ATTEMPTS = 5

_COLUMNS = """
number, whole_number, since_txid, position_txid, seal_sequence, seal_hash, errors_count,
warnings_count, started_at"""

SELECT_LATEST = f"""
SELECT {_COLUMNS}, stay_id, checks_digest,
       EXISTS (SELECT FROM ledger_seals AS s
               WHERE s.sequence = v.seal_sequence AND s.hash = v.seal_hash) AS has_its_seal,
       now() AS now
FROM ledger_verifications AS v
ORDER BY number DESC
LIMIT 1
"""

# Those from $1 on, oldest first.
SELECT_FROM = f"""
SELECT {_COLUMNS} FROM ledger_verifications WHERE number >= $1 ORDER BY number
"""

# The latest $1, newest first.
SELECT_NEWEST = f"""
SELECT {_COLUMNS} FROM ledger_verifications ORDER BY number DESC LIMIT $1
"""

SELECT_MAY_STORE = """
SELECT has_table_privilege('ledger_verifications', 'INSERT') AS has_privilege,
       pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS is_read_only
"""

INSERT_VERIFICATION = f"""
INSERT INTO ledger_verifications ({_COLUMNS}, stay_id, checks_digest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""


class SealedPosition(NamedTuple):
    """Where the books are: their stay, and how far they are sealed."""

    stay_id: UUID
    # The txid below which everything is sealed; 0 if nothing is, or not in this stay.
    sealed_txid: int
    next_txid: int
    seal_sequence: int
    seal_hash: bytes


async def verify_books(
    engine: AsyncEngine,
    *,
    whole: bool = False,
    payout_answer_days: int = PAYOUT_ANSWER_DAYS,
    host_clock: Callable[[], datetime] = host_now,
) -> VerificationReport:
    """Checks what is new since the latest verification, or whole books, and stores that it did.

    Checks whole books if `whole`, and if there is no verification to build on. Reads everything
    from one database snapshot. Stores one row, in a transaction afterwards, if the role of `engine`
    may. The rest is as for `audit`.
    """
    digest = checks_digest()
    async with auditing(
        engine, payout_answer_days=payout_answer_days, host_clock=host_clock
    ) as connection:
        position = await sealed_position(connection)
        latest = await connection.fetchrow(SELECT_LATEST)
        because = "--all was given" if whole else _not_built_upon(latest, position, digest)
        since = None if because or latest is None else _verification(latest)
        earlier = (
            []
            if since is None
            else [
                _verification(row)
                for row in await connection.fetch(SELECT_FROM, since.whole_number)
            ]
        )
        report = await make_checks(connection, None if since is None else since.position_txid)
        started_at = await connection.fetchval("SELECT now()")
    number = 1 if latest is None else latest["number"] + 1
    made = Verification(
        number=number,
        whole_number=number if since is None else since.whole_number,
        since_txid=0 if since is None else since.position_txid,
        position_txid=position.sealed_txid,
        seal_sequence=position.seal_sequence,
        seal_hash=position.seal_hash,
        errors_count=len(report.errors),
        warnings_count=len(report.warnings),
        started_at=started_at,
    )
    stored = await _store(engine, made, position.stay_id, digest)
    return VerificationReport(
        audit=report,
        earlier=tuple(earlier),
        whole_because=because,
        stored=stored if isinstance(stored, Verification) else None,
        not_stored_because=stored if isinstance(stored, str) else "",
    )


async def newest_verifications(engine: AsyncEngine, count: int) -> list[Verification]:
    """The latest verifications that were stored, newest first."""
    async with autocommit(engine) as connection:
        return [_verification(row) for row in await connection.fetch(SELECT_NEWEST, count)]


def checks_digest() -> bytes:
    """The SHA-256 of the checks, and of what they read if only what is new is checked."""
    script = resource("sql", "invariants.sql").read_text()
    return hashlib.sha256(f"{script}\n{NEW_ROWS_TEXT}".encode()).digest()


async def sealed_position(connection: Connection) -> SealedPosition:
    """How far the books are sealed in their present stay."""
    (row,) = await connection.fetch(SELECT_POSITION)
    is_sealed = bool(row["is_of_this_stay"]) and not row["is_restored"]
    return SealedPosition(
        stay_id=row["this_stay_id"] or UNKNOWN_STAY,
        sealed_txid=min(row["end_txid"], row["horizon_txid"])
        if is_sealed and row["this_stay_id"] is not None
        else 0,
        next_txid=row["next_txid"],
        seal_sequence=row["sequence"] or 0,
        seal_hash=row["hash"] or bytes(32),
    )


def _not_built_upon(latest: Row | None, position: SealedPosition, digest: bytes) -> str:
    """Why whole books must be checked; empty if what is new since `latest` is enough."""
    if latest is None:
        return "no verification is stored"
    number = latest["number"]
    if latest["errors_count"]:
        return f"verification {number} found errors"
    if latest["position_txid"] == 0:
        return f"nothing was sealed at verification {number}"
    if latest["stay_id"] != position.stay_id:
        return f"the books came from elsewhere since verification {number}"
    if latest["checks_digest"] != digest:
        return f"the checks are not those of verification {number}"
    if not latest["has_its_seal"]:
        return f"the chain no longer has the seal of verification {number}"
    if position.next_txid - latest["position_txid"] > POSITION_AGE_MAX:
        return f"verification {number} is too many transactions ago"
    return ""


async def _store(
    engine: AsyncEngine, made: Verification, stay_id: UUID, digest: bytes
) -> Verification | str:
    """Stores a verification. Returns it with its number, or why it was not stored."""
    async with autocommit(engine) as connection:
        (may,) = await connection.fetch(SELECT_MAY_STORE)
    if may["is_read_only"]:
        return "the database is read-only"
    if not may["has_privilege"]:
        return "the role may not INSERT into ledger_verifications"
    for _ in range(STORE_ATTEMPTS):
        try:
            async with autocommit(engine) as connection:
                await connection.execute(INSERT_VERIFICATION, *astuple(made), stay_id, digest)
            return made
        except asyncpg.UniqueViolationError:
            # The other one may have found errors, on which nothing clean is built.
            if made.is_clean:
                break
            number = made.number + 1
            made = replace(
                made, number=number, whole_number=number if made.is_whole else made.whole_number
            )
    return "another verification was stored at the same time"


def _verification(row: Row) -> Verification:
    return Verification(*row[:9])
