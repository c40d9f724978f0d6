"""Checks whether the database is fit for a server, and says what to do where it is not."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.errors import DatabaseContention, DatabaseTimeout
from ledger.infrastructure.postgres.sessions.errors import sentence_of
from ledger.infrastructure.postgres.verification.start_checks import (
    DoubtfulDatabase,
    UnfitDatabase,
    check_clocks,
    check_durability,
    check_encoding,
    check_grants,
    check_privileges,
    check_role_settings,
    check_schema,
    check_sequences,
    check_sessions,
    check_subscriptions,
    check_triggers,
    check_txids,
    check_writable,
)


class Fitness(StrEnum):
    """The outcome of a check, in a word."""

    OK = "ok"
    # Servers run, and the operator should look at it.
    WARNING = "warning"
    # No server starts, or servers do not work.
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Condition:
    """The outcome of a check. `detail` and `remedy` are empty if nothing is wrong."""

    check: str
    fitness: Fitness
    detail: str = ""
    remedy: str = ""


# Each check comes after the checks that it relies on.
SESSIONS, SCHEMA = "sessions are kept", "the schema is the newest"
# A setting may waive these two.
DURABLE, RESTRICTED = "commits are durable", "the role may do no more than it has to"
CHECKS: dict[str, Callable[[AsyncEngine], Awaitable[None]]] = {
    SESSIONS: check_sessions,
    "the encoding is UTF8": check_encoding,
    DURABLE: check_durability,
    "writes are taken": check_writable,
    "no role or database setting differs": check_role_settings,
    SCHEMA: check_schema,
    "no subscription brings rows": check_subscriptions,
    RESTRICTED: check_privileges,
    "the role may do what it has to": check_grants,
    "triggers are on": check_triggers,
    "sequences are ahead of their tables": check_sequences,
    "transaction numbers are past": check_txids,
    "clocks agree": check_clocks,
}


async def examine(
    engine: AsyncEngine, *, not_required: frozenset[str] = frozenset()
) -> tuple[Condition, ...]:
    """Makes every check of CHECKS, in order, and writes nothing.

    `engine` has at least two connections. A check that fails and is `not_required` is a warning,
    as is a check that takes too long. Raises DatabaseUnavailable.
    """
    conditions: list[Condition] = []
    needed = ""
    for name, check in CHECKS.items():
        if needed:
            conditions.append(Condition(name, Fitness.WARNING, "not asked", f"first: {needed}"))
            continue
        condition = await _examine(name, check, engine)
        if condition.fitness is Fitness.BROKEN:
            if name in (SESSIONS, SCHEMA):
                needed = name
            if name in not_required:
                condition = Condition(name, Fitness.WARNING, condition.detail, condition.remedy)
        conditions.append(condition)
    return tuple(conditions)


async def _examine(
    name: str, check: Callable[[AsyncEngine], Awaitable[None]], engine: AsyncEngine
) -> Condition:
    try:
        await check(engine)
    except DoubtfulDatabase as doubt:
        return Condition(name, Fitness.WARNING, doubt.detail, doubt.remedy)
    except UnfitDatabase as unfit:
        return Condition(name, Fitness.BROKEN, unfit.detail, unfit.remedy)
    except (DatabaseContention, DatabaseTimeout) as error:
        # With very many accounts, or while a table is locked. The other checks still count.
        return Condition(
            name,
            Fitness.WARNING,
            f"no answer in time: {error}",
            "ask again when the database is less busy",
        )
    except (DBAPIError, asyncpg.PostgresError) as error:
        # For lack of a privilege that another check names. The other checks still count.
        return Condition(
            name,
            Fitness.BROKEN,
            f"the database refuses: {sentence_of(error)}",
            "mend what the other checks name, then ask again",
        )
    return Condition(name, Fitness.OK)
