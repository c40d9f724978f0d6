"""Mends what a move of the books leaves wrong: owners, privileges, triggers, sequences, marks."""

from ledger.infrastructure.postgres.schema.newest_schema import (
    domains,
    functions,
    sequences,
    tables,
    views,
)
from ledger.infrastructure.postgres.schema.privileges import lacking_privileges
from ledger.infrastructure.postgres.schema.sequences import advance, lagging_sequences
from ledger.infrastructure.postgres.schema.triggers import triggers_off
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE, OWNER_ROLE, READER_ROLE
from ledger.infrastructure.postgres.sessions.horizon import STAY, written_here

# Functions are found by name and arguments: another role's function of the same name is not the
# ledger's. If ledger_owner owned it, that role's code would run with the owner's rights.
_OF_THESE_FUNCTIONS = """JOIN pg_catalog.pg_proc AS p
  ON p.pronamespace = CAST(quote_ident(current_schema()) AS regnamespace)
  AND p.proname || '(' || pg_get_function_arguments(p.oid) || ')' = f.name"""

# Tables of these names that are together in a schema are the ledger's, whatever role restored them.
# $1: the names of tables, views and sequences; $2: the functions; $3: the domains.
SELECT_OBJECTS_OF_OTHERS = f"""
SELECT 'TABLE ' || c.oid::regclass AS name FROM unnest($1::text[]) AS t (name)
JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(t.name)
WHERE pg_get_userbyid(c.relowner) <> '{OWNER_ROLE}'
  AND to_regclass('ledger_entries') IS NOT NULL AND to_regclass('processor_events') IS NOT NULL
UNION ALL
SELECT 'FUNCTION ' || p.oid::regprocedure FROM unnest($2::text[]) AS f (name)
{_OF_THESE_FUNCTIONS}
WHERE pg_get_userbyid(p.proowner) <> '{OWNER_ROLE}'
  AND to_regclass('ledger_entries') IS NOT NULL AND to_regclass('processor_events') IS NOT NULL
UNION ALL
SELECT 'DOMAIN ' || t.oid::regtype FROM unnest($3::text[]) AS d (name)
JOIN pg_catalog.pg_type AS t ON t.oid = to_regtype(d.name) AND t.typtype = 'd'
WHERE pg_get_userbyid(t.typowner) <> '{OWNER_ROLE}'
  AND to_regclass('ledger_entries') IS NOT NULL AND to_regclass('processor_events') IS NOT NULL
ORDER BY 1
"""

SELECT_PUBLIC_FUNCTIONS = f"""
SELECT p.oid::regprocedure::text AS name FROM unnest($1::text[]) AS f (name)
{_OF_THESE_FUNCTIONS}
WHERE p.prosecdef AND EXISTS (
  SELECT FROM aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) AS acl
  WHERE acl.grantee = 0 AND acl.privilege_type = 'EXECUTE')
ORDER BY 1
"""

# Servers do not use some marks of the present stay: those made before revision 0020, and those
# copied here as rows. A new mark could get the key of such a row, and would then not be stored.
# New marks follow the newest mark of the account, so all marks of the account are removed.
DELETE_MARKS_IN_THE_WAY = f"""
WITH deleted AS (
  DELETE FROM statement_marks AS m
  USING (
    SELECT DISTINCT old.balance_account_id, old.stay_id FROM statement_marks AS old
    WHERE old.stay_id = {STAY} AND ({written_here("old")}) IS NOT TRUE
  ) AS in_the_way
  WHERE m.balance_account_id = in_the_way.balance_account_id AND m.stay_id = in_the_way.stay_id
  RETURNING m.balance_account_id
)
SELECT count(*) FROM deleted
"""


async def take_over(connection: Connection) -> list[str]:
    """Gives tables, functions and domains to their owner, as after a restore without owners.

    For a superuser's session. Returns what it did, in sentences; on repeat nothing.
    """
    names = [
        row["name"]
        for row in await connection.fetch(
            SELECT_OBJECTS_OF_OTHERS,
            [*tables(), *views(), *sequences()],
            [*functions()],
            [*domains()],
        )
    ]
    for name in names:
        await connection.execute(f"ALTER {name} OWNER TO {OWNER_ROLE}")
    return [f"gave {_counted(len(names), 'object', 'objects')} to {OWNER_ROLE}"] if names else []


async def mend(connection: Connection) -> list[str]:
    """Makes privileges, triggers and sequences what the newest schema has, as the owner.

    Removes marks that servers do not use. Locks a table only to change one of its triggers.
    Returns what it did, in sentences; on repeat nothing.
    """
    done = [*await _grant(connection), *await _turn_on(connection)]
    for lagging in await lagging_sequences(connection):
        await advance(connection, lagging)
        done.append(
            f"moved the sequence of {lagging.table}.{lagging.column}"
            f" from {lagging.next_value} past {lagging.highest}"
        )
    removed = await connection.fetchval(DELETE_MARKS_IN_THE_WAY)
    if removed:
        done.append(f"removed {_counted(removed, 'mark', 'marks')} of statements, to be made again")
    return done


async def _grant(connection: Connection) -> list[str]:
    done = []
    # Before the grants: while PUBLIC has a privilege, the application seems to have it already.
    for row in await connection.fetch(SELECT_PUBLIC_FUNCTIONS, [*functions()]):
        await connection.execute(f"REVOKE ALL ON FUNCTION {row['name']} FROM PUBLIC")
        done.append(f"revoked {row['name']} from PUBLIC")
    lacking = await lacking_privileges(connection, (APPLICATION_ROLE, READER_ROLE))
    for privilege in lacking:
        await connection.execute(privilege.grant)
    if lacking:
        privileges = _counted(len(lacking), "privilege that was", "privileges that were")
        done.append(f"granted {privileges} missing")
    return done


async def _turn_on(connection: Connection) -> list[str]:
    done = []
    for name, statement, _ in await triggers_off(connection):
        await connection.execute(statement)
        done.append(f"turned the trigger {name} on as it was made")
    return done


def _counted(count: int, noun: str, plural: str) -> str:
    return f"{count} {noun if count == 1 else plural}"
