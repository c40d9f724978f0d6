"""The audit on PostgreSQL: runs the checks of sql/invariants.sql."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.audit import AuditReport, Finding, Severity
from ledger.infrastructure.postgres.sessions.clock import host_now
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import (
    READ_WHOLE_TABLES,
    allow_seconds,
    autocommit,
)
from ledger.infrastructure.postgres.verification.new_rows import narrowed
from ledger.resources import resource

FINDINGS_PER_CHECK_MAX = 100
# A check reads whole tables, and the time grows with them. Sessions of servers have far less time.
CHECK_TIMEOUT_SECONDS = 3600
# Longer than a weekend with a holiday.
PAYOUT_ANSWER_DAYS = 5
# Enough for PostgreSQL to join a million entries without spilling to disk.
WORK_MEM = "64MB"

_CHECK_HEADER = re.compile(
    r"^-- check: (?P<name>[a-z0-9_]+)\n-- scope: (?P<scope>[a-z]+)\b", re.MULTILINE
)
_CHECK_NAME = re.compile(r"^-- check: ", re.MULTILINE)
# A semicolon at the end of a comment ends no statement.
_STATEMENT_END = re.compile(r"^(?!\s*--).*(?P<semicolon>;)$", re.MULTILINE)

# Errors first, so that warnings never displace one. MATERIALIZED, so that PostgreSQL plans the
# check for all its rows and not for the first ones.
_SELECT_FINDINGS = """
WITH {rows}finding AS MATERIALIZED (
{statement}
)
SELECT check_name, severity, COALESCE(entity, '(nameless)') AS entity,
       COALESCE(detail, '') AS detail, (SELECT count(*) FROM finding) AS findings_count
FROM finding
ORDER BY severity, entity, detail
LIMIT {limit}
"""


class Scope(StrEnum):
    """What a check reads if only what is new is checked. The value is the word of the file."""

    NEW = "new"  # new and touched rows, as the comments in the statement say
    SMALL = "small"  # the same as always: it reads little
    ALL = "all"  # nothing


@dataclass(frozen=True, slots=True)
class Check:
    """A check of the file: its name, and the statement that returns a row for each fault."""

    name: str
    scope: Scope
    statement: str


async def audit(
    engine: AsyncEngine,
    *,
    payout_answer_days: int = PAYOUT_ANSWER_DAYS,
    host_clock: Callable[[], datetime] = host_now,
    position: int | None = None,
) -> AuditReport:
    """Makes every check and writes nothing.

    All checks read one database snapshot, so events that are booked at the same time do not
    disturb them. A payout that the bank has not answered for `payout_answer_days` is a warning.
    Reports the first FINDINGS_PER_CHECK_MAX findings of a check and, in one more, how many it
    leaves out. `engine` may log in as any role that reads the tables.

    With `position`, a txid below which everything was verified, checks what is new since: each
    check reads what its scope says, and those of the scope `all` are left out. Raises
    DatabaseUnavailable, DatabaseTimeout.
    """
    async with auditing(
        engine, payout_answer_days=payout_answer_days, host_clock=host_clock
    ) as connection:
        return await make_checks(connection, position)


@asynccontextmanager
async def auditing(
    engine: AsyncEngine,
    *,
    payout_answer_days: int = PAYOUT_ANSWER_DAYS,
    host_clock: Callable[[], datetime] = host_now,
) -> AsyncIterator[Connection]:
    """A read-only transaction for the checks. Everything in it reads one database snapshot."""
    async with AsyncExitStack() as exits:
        connection = await exits.enter_async_context(autocommit(engine))
        began_at = host_clock()
        await exits.enter_async_context(
            connection.transaction(isolation="repeatable_read", readonly=True)
        )
        host_during = f"[{began_at.isoformat()},{host_clock().isoformat()}]"
        await allow_seconds(connection, CHECK_TIMEOUT_SECONDS)
        await connection.execute(f"SET LOCAL work_mem = '{WORK_MEM}'")
        # Checks read whole tables, which statements of servers must never do.
        await connection.execute(READ_WHOLE_TABLES)
        await connection.execute(f"SET LOCAL ledger.payout_answer_days = '{payout_answer_days:d}'")
        await connection.execute(f"SET LOCAL ledger.host_during = '{host_during}'")
        yield connection


async def make_checks(connection: Connection, position: int | None) -> AuditReport:
    """Makes the checks in a transaction of `auditing`: all, or those of what is new."""
    checks = tuple(
        check for check in load_checks() if position is None or check.scope is not Scope.ALL
    )
    if position is not None:
        # PostgreSQL cannot know how many rows are new, and takes few. Then it would compare each
        # with each, from rows that it keeps at hand.
        await connection.execute("SET LOCAL enable_material = off")
    findings: list[Finding] = []
    for check in checks:
        findings += await _findings(connection, check, position)
    return AuditReport(tuple(check.name for check in checks), tuple(findings))


def load_checks() -> tuple[Check, ...]:
    """The checks of sql/invariants.sql, in its order.

    Raises ValueError if the file does not have the form that its head describes.
    """
    checks = tuple(_parse(resource("sql", "invariants.sql").read_text()))
    names = [check.name for check in checks]
    if not names or len(names) != len(set(names)):
        raise ValueError("sql/invariants.sql has no checks, or two of one name")
    return checks


def _parse(script: str) -> Iterator[Check]:
    headers = list(_CHECK_HEADER.finditer(script))
    if len(headers) != len(_CHECK_NAME.findall(script)):
        raise ValueError("sql/invariants.sql: a check does not say its scope")
    ends = [following.start() for following in headers[1:]] + [len(script)]
    for header, end in zip(headers, ends, strict=True):
        statement_end = _STATEMENT_END.search(script, header.end(), end)
        if statement_end is None:
            raise ValueError(f"sql/invariants.sql: no semicolon ends the check {header['name']}")
        body = script.index("\n", header.end()) + 1
        yield Check(
            header["name"],
            Scope(header["scope"]),
            script[body : statement_end.start("semicolon")].strip(),
        )


def finding_query(check: Check, position: int | None) -> str:
    """SQL for the first findings of a check, each with how many there are."""
    rows, statement = "", check.statement
    if position is not None and check.scope is Scope.NEW:
        rows, statement = narrowed(statement, position)
    return _SELECT_FINDINGS.format(rows=rows, statement=statement, limit=FINDINGS_PER_CHECK_MAX)


async def _findings(connection: Connection, check: Check, position: int | None) -> list[Finding]:
    # Prepared each time: otherwise the driver would keep the statement, and PostgreSQL would keep
    # the plan that it made when the tables were small. The timeout replaces the driver's, which is
    # for servers.
    statement = await connection.prepare(finding_query(check, position))
    rows = await statement.fetch(timeout=CHECK_TIMEOUT_SECONDS + 5)
    findings = [
        Finding(row["check_name"], Severity(row["severity"]), row["entity"], row["detail"])
        for row in rows
    ]
    if rows and rows[0]["findings_count"] > len(rows):
        left_out = rows[0]["findings_count"] - len(rows)
        findings.append(
            Finding(check.name, findings[-1].severity, "more", f"{left_out} more like these")
        )
    return findings
