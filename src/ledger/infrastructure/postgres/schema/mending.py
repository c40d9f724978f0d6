"""Mends after moves of the books and earlier revisions: owners, privileges, triggers and marks."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.infrastructure.postgres.schema.newest_schema import functions, sequences, tables, views
from ledger.infrastructure.postgres.schema.privileges import lacking_privileges
from ledger.infrastructure.postgres.schema.sequences import advance, lagging_sequences
from ledger.infrastructure.postgres.schema.triggers import triggers_off
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE, OWNER_ROLE, READER_ROLE
from ledger.infrastructure.postgres.sessions.horizon import STAY, written_here

# By their arguments, too: what another role made by the same name is not the ledger's. Owned by
# ledger_owner, it would do with the books what that role wants.
OF_THESE = """JOIN pg_catalog.pg_proc AS p
  ON p.pronamespace = CAST(quote_ident(current_schema()) AS regnamespace)
  AND p.proname || '(' || pg_get_function_arguments(p.oid) || ')' = f.name"""

# Tables of these names that are together in a schema are the ledger's, whoever restored them.
SELECT_STRANGERS = f"""
SELECT 'TABLE ' || c.oid::regclass FROM unnest(CAST(:tables AS text[])) AS t (name)
JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(t.name)
WHERE pg_get_userbyid(c.relowner) <> '{OWNER_ROLE}'
  AND to_regclass('ledger_entries') IS NOT NULL AND to_regclass('processor_events') IS NOT NULL
UNION ALL
SELECT 'FUNCTION ' || p.oid::regprocedure FROM unnest(CAST(:functions AS text[])) AS f (name)
{OF_THESE}
WHERE pg_get_userbyid(p.proowner) <> '{OWNER_ROLE}'
  AND to_regclass('ledger_entries') IS NOT NULL AND to_regclass('processor_events') IS NOT NULL
ORDER BY 1
"""

SELECT_PUBLIC_FUNCTIONS = f"""
SELECT p.oid::regprocedure::text FROM unnest(CAST(:functions AS text[])) AS f (name)
{OF_THESE}
WHERE p.prosecdef AND EXISTS (
  SELECT FROM aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) AS acl
  WHERE acl.grantee = 0 AND acl.privilege_type = 'EXECUTE')
ORDER BY 1
"""

# Marks of the present stay that do not count, as those of before revision 0020 and those that came as
# rows, have the keys with which they would be made again. And marks are only made after the newest one,
# so the later ones of their account go, too.
DELETE_MARKS_IN_THE_WAY = f"""
DELETE FROM statement_marks AS m
USING (
  SELECT DISTINCT old.balance_account_id, old.stay_id FROM statement_marks AS old
  WHERE old.stay_id = {STAY} AND ({written_here("old")}) IS NOT TRUE
) AS in_the_way
WHERE m.balance_account_id = in_the_way.balance_account_id AND m.stay_id = in_the_way.stay_id
"""


async def take_over(connection: AsyncConnection) -> list[str]:
    """Gives tables and functions to their owner that a restore without owners left to another one.

    For a superuser's session. Returns what it did, in sentences.
    """
    named = {"tables": [*tables(), *views(), *sequences()], "functions": [*functions()]}
    strangers = [name for (name,) in await connection.execute(text(SELECT_STRANGERS), named)]
    for name in strangers:
        await connection.execute(text(f"ALTER {name} OWNER TO {OWNER_ROLE}"))
    return (
        [f"gave {_counted(len(strangers), 'object', 'objects')} to {OWNER_ROLE}"]
        if strangers
        else []
    )


async def mend(connection: AsyncConnection) -> list[str]:
    """Makes privileges, triggers and sequences what the newest schema says, as the owner.

    Removes marks of statements that do not count. Takes a lock on a table only if one of its triggers is
    not as it should be. Returns what it did, in sentences; on repeat nothing.
    """
    done = [*await _grant(connection), *await _turn_on(connection)]
    for lagging in await lagging_sequences(connection):
        await advance(connection, lagging)
        done.append(
            f"moved the sequence of {lagging.table}.{lagging.column} from {lagging.next_value} past {lagging.highest}"
        )
    removed = (await connection.execute(text(DELETE_MARKS_IN_THE_WAY))).rowcount
    if removed:
        done.append(f"removed {_counted(removed, 'mark', 'marks')} of statements, to be made again")
    return done


async def _grant(connection: AsyncConnection) -> list[str]:
    done = []
    named = {"functions": [*functions()]}
    # First: the application has by PUBLIC what it is granted by name below.
    for (function,) in list(await connection.execute(text(SELECT_PUBLIC_FUNCTIONS), named)):
        await connection.execute(text(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC"))
        done.append(f"revoked {function} from PUBLIC")
    lacking = await lacking_privileges(connection, (APPLICATION_ROLE, READER_ROLE))
    for privilege in lacking:
        await connection.execute(text(privilege.grant))
    if lacking:
        done.append(
            f"granted {_counted(len(lacking), 'privilege that was', 'privileges that were')} missing"
        )
    return done


async def _turn_on(connection: AsyncConnection) -> list[str]:
    done = []
    for name, statement, _ in await triggers_off(connection):
        await connection.execute(text(statement))
        done.append(f"turned the trigger {name} on as it was made")
    return done


def _counted(count: int, noun: str, plural: str) -> str:
    return f"{count} {noun if count == 1 else plural}"
