"""Whether the database is fit for a server: every check of the start, and what to do about each."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

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
    check_numbers,
    check_privileges,
    check_role_settings,
    check_schema,
    check_sequences,
    check_sessions,
    check_subscriptions,
    check_triggers,
    check_writable,
)


class Fitness(StrEnum):
    """What a check has found."""

    OK = "ok"
    # A server runs; an operator should look.
    WARNING = "warning"
    # No server starts, or none does its work.
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Condition:
    """The outcome of a check; what is wrong and what to do about it are empty if it is fine."""

    check: str
    fitness: Fitness
    detail: str = ""
    remedy: str = ""


# In an order that has each after those that it relies on.
SESSIONS, SCHEMA = "sessions are kept", "the schema is the newest"
# What a setting may waive.
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
    "transaction numbers are past": check_numbers,
    "clocks agree": check_clocks,
}


async def examine(
    engine: AsyncEngine, *, not_required: frozenset[str] = frozenset()
) -> tuple[Condition, ...]:
    """Makes every check of CHECKS, in order, and writes nothing. `engine` has two connections at least.

    What is broken and `not_required` is a warning; so is a check that gets no answer in time. Raises DatabaseUnavailable.
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
        # As for very many accounts, or while a table is locked. What the other checks found is worth knowing.
        return Condition(
            name,
            Fitness.WARNING,
            f"no answer in time: {error}",
            "ask again when the database is less busy",
        )
    except DBAPIError as error:
        # As for a privilege that another check names. One answer that is missing must not hide the others.
        return Condition(
            name,
            Fitness.BROKEN,
            f"the database refuses: {sentence_of(error)}",
            "mend what the other checks name, then ask again",
        )
    return Condition(name, Fitness.OK)
