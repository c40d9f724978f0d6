"""Reports on PostgreSQL: runs the queries of sql/queries.sql."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.events import OCCURRED_AT_MIN
from ledger.domain.payouts import day_bounds
from ledger.errors import FieldViolation, InvalidRequest, RestaurantNotFound
from ledger.infrastructure.postgres.sessions.engine import (
    READ_WHOLE_TABLES,
    allow_seconds,
    autocommit,
)
from ledger.resources import resource
from ledger.zones import settlement_zone

ROWS_MAX = 100_000
# People wait for reports. Sessions of servers have far less time.
REPORT_TIMEOUT_SECONDS = 300
WORK_MEM = "64MB"

Value = str | int | bool | date | datetime | Decimal | UUID | None

_QUERY_HEADER = re.compile(r"^-- query: (?P<name>[a-z0-9_]+)$", re.MULTILINE)
_STATEMENT_END = re.compile(r";$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_PARAMETER = re.compile(r":'([a-z_]+)'")


SELECT_IS_REGISTERED = "SELECT EXISTS (SELECT FROM restaurants WHERE restaurant_id = $1)"


@dataclass(frozen=True, slots=True)
class Query:
    """A query of the file: its name, and its statement, whose $1, $2 and so on are `parameters`."""

    name: str
    statement: str
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a query returned. `is_complete` is false if rows beyond ROWS_MAX were left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    is_complete: bool


async def run_query(engine: AsyncEngine, name: str, parameters: Mapping[str, Value]) -> Report:
    """Runs the query of that name in a read-only transaction; at most ROWS_MAX rows.

    `parameters` are exactly those of the query. Their values are bound, never put into the
    statement. Raises KeyError for an unknown name, ValueError for other parameters,
    DatabaseUnavailable, DatabaseTimeout, DataRejected.
    """
    query = load_queries()[name]
    if set(parameters) != set(query.parameters):
        raise ValueError(f"{name} takes the parameters {', '.join(query.parameters) or '(none)'}")
    values = [parameters[parameter] for parameter in query.parameters]
    async with (
        autocommit(engine) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await allow_seconds(connection, REPORT_TIMEOUT_SECONDS)
        await connection.execute(f"SET LOCAL work_mem = '{WORK_MEM}'")
        # Sessions of servers never plan for given values or read a whole table. A report may.
        await connection.execute("SET LOCAL plan_cache_mode = 'force_custom_plan'")
        await connection.execute(READ_WHOLE_TABLES)
        # Replaces the driver's timeout, which is for servers.
        timeout_seconds = REPORT_TIMEOUT_SECONDS + 5
        statement = await connection.prepare(query.statement, timeout=timeout_seconds)
        cursor = await statement.cursor(*values, timeout=timeout_seconds)
        rows = await cursor.fetch(ROWS_MAX + 1, timeout=timeout_seconds)
        columns = tuple(attribute.name for attribute in statement.get_attributes())
    return Report(columns, tuple(tuple(row) for row in rows[:ROWS_MAX]), len(rows) <= ROWS_MAX)


async def payout_history(engine: AsyncEngine, restaurant_id: str) -> Report:
    """The payouts of a restaurant.

    Raises RestaurantNotFound, DatabaseUnavailable, DatabaseTimeout.
    """
    found = await run_query(engine, "payout_history", {"restaurant_id": restaurant_id})
    if not found.rows:
        async with autocommit(engine) as connection:
            if not await connection.fetchval(SELECT_IS_REGISTERED, restaurant_id):
                raise RestaurantNotFound(restaurant_id)
    return found


async def payout_eligibility(
    engine: AsyncEngine,
    *,
    currency: str,
    as_of: date | None,
    settlement_timezone: str,
    min_amount_minor: int,
) -> Report:
    """What a payout run of these terms would do now. Without `as_of`, the date is today.

    The date is in the settlement time zone, as for a run, and today is by the clock of the books.
    Raises InvalidRequest for a date in the future or before OCCURRED_AT_MIN, and what `run_query`
    raises.
    """
    zone = settlement_zone(settlement_timezone)
    async with autocommit(engine) as connection:
        now_at: datetime = await connection.fetchval("SELECT ledger_now()")
    today = now_at.astimezone(zone).date()
    day = today if as_of is None else as_of
    if day > today:
        raise InvalidRequest([FieldViolation("as_of", "must not be in the future")])
    if day < OCCURRED_AT_MIN.date():
        raise InvalidRequest(
            [FieldViolation("as_of", f"must not be before {OCCURRED_AT_MIN.date()}")]
        )
    begins_at, ends_at = day_bounds(day, zone)
    parameters: dict[str, Value] = {
        "currency": currency,
        "as_of": day,
        "begins_at": begins_at,
        "ends_at": ends_at,
        "min_amount_minor": min_amount_minor,
    }
    return await run_query(engine, "q3_payout_eligibility", parameters)


def load_queries() -> dict[str, Query]:
    """The queries of sql/queries.sql by name, in its order.

    Raises ValueError if the file does not have the form that its head describes.
    """
    queries = list(_parse(resource("sql", "queries.sql").read_text()))
    by_name = {query.name: query for query in queries}
    if not queries or len(by_name) != len(queries):
        raise ValueError("sql/queries.sql has no queries, or two of one name")
    return by_name


def _parse(script: str) -> Iterator[Query]:
    headers = list(_QUERY_HEADER.finditer(script))
    ends = [following.start() for following in headers[1:]] + [len(script)]
    for header, end in zip(headers, ends, strict=True):
        # Without comments: a colon and quotes in a comment are no parameter.
        text = _COMMENT.sub("", script[header.end() : end])
        statement_end = _STATEMENT_END.search(text)
        if statement_end is None:
            raise ValueError(f"sql/queries.sql: no semicolon ends the query {header['name']}")
        text = text[: statement_end.start()].strip()
        parameters = tuple(dict.fromkeys(_PARAMETER.findall(text)))
        for number, parameter in enumerate(parameters, 1):
            text = text.replace(f":'{parameter}'", f"${number}")
        yield Query(header["name"], text, parameters)
