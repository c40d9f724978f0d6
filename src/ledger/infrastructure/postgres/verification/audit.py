"""The audit on PostgreSQL: runs the checks of sql/invariants.sql."""

import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.audit import AuditReport, Finding, Severity
from ledger.infrastructure.postgres.sessions.clock import host_now
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import (
    READ_WHOLE_TABLES,
    allow_seconds,
    autocommit,
)
from ledger.resources import resource

FINDINGS_PER_CHECK_MAX = 100
# A check reads whole tables, and the time grows with them. Sessions of servers have far less time.
CHECK_TIMEOUT_SECONDS = 3600
# Longer than a weekend with a holiday.
PAYOUT_ANSWER_DAYS = 5
# Enough for PostgreSQL to join a million entries without spilling to disk.
WORK_MEM = "64MB"

_CHECK_HEADER = re.compile(r"^-- check: (?P<name>[a-z0-9_]+)$", re.MULTILINE)
# A semicolon at the end of a comment ends no statement.
_STATEMENT_END = re.compile(r"^(?!\s*--).*(?P<semicolon>;)$", re.MULTILINE)

# Errors first, so that warnings never displace one. MATERIALIZED, so that PostgreSQL plans the
# check for all its rows and not for the first ones.
_SELECT_FINDINGS = """
WITH finding AS MATERIALIZED (
{statement}
)
SELECT check_name, severity, COALESCE(entity, '(nameless)') AS entity,
       COALESCE(detail, '') AS detail, (SELECT count(*) FROM finding) AS findings_count
FROM finding
ORDER BY severity, entity, detail
LIMIT {limit}
"""


@dataclass(frozen=True, slots=True)
class Check:
    """A check of the file: its name, and the statement that returns a row for each fault."""

    name: str
    statement: str


async def audit(
    engine: AsyncEngine,
    *,
    payout_answer_days: int = PAYOUT_ANSWER_DAYS,
    host_clock: Callable[[], datetime] = host_now,
) -> AuditReport:
    """Makes every check and writes nothing.

    All checks read one database snapshot, so events that are booked at the same time do not
    disturb them. A payout that the bank has not answered for `payout_answer_days` is a warning.
    Reports the first FINDINGS_PER_CHECK_MAX findings of a check and, in one more, how many it
    leaves out. `engine` may log in as any role that reads the tables. Raises DatabaseUnavailable,
    DatabaseTimeout.
    """
    checks = load_checks()
    findings: list[Finding] = []
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
        for check in checks:
            findings += await _findings(connection, check)
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
    ends = [following.start() for following in headers[1:]] + [len(script)]
    for header, end in zip(headers, ends, strict=True):
        statement_end = _STATEMENT_END.search(script, header.end(), end)
        if statement_end is None:
            raise ValueError(f"sql/invariants.sql: no semicolon ends the check {header['name']}")
        yield Check(header["name"], script[header.end() : statement_end.start("semicolon")].strip())


async def _findings(connection: Connection, check: Check) -> list[Finding]:
    # Prepared each time: otherwise the driver would keep the statement, and PostgreSQL would keep
    # the plan that it made when the tables were small. The timeout replaces the driver's, which is
    # for servers.
    statement = await connection.prepare(
        _SELECT_FINDINGS.format(statement=check.statement, limit=FINDINGS_PER_CHECK_MAX)
    )
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
