"""What a session could do to the books beyond adding to them, and what its role may not do that it has to."""

from collections.abc import Sequence
from contextlib import aclosing

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledger.infrastructure.postgres.schema.newest_schema import Privilege, privileges
from ledger.infrastructure.postgres.sessions.engine import connect
from ledger.infrastructure.postgres.sessions.errors import database_errors

# What is only ever added to.
APPEND_ONLY_TABLES = (
    "processor_events",
    "ledger_entries",
    "ledger_seals",
    "ledger_stays",
    "audit_log",
    "payout_items",
    "archived_ranges",
    "archived_run_outcomes",
)

# The role that a session runs as, and the one that logged in, which it may become again by RESET ROLE: each with what it holds by
# itself or could come to hold by SET ROLE, inherited or not. A superuser holds everything, and is told once. Up to PostgreSQL 15,
# who may make roles may become any of them. A trigger of its own could swallow rows; the owner of the schema, to whom the
# database's owner belongs, may drop tables.
SELECT_EXCESSES = """
WITH role AS (
  SELECT oid, rolname, rolsuper, rolcreaterole FROM pg_catalog.pg_roles WHERE rolname IN (session_user, current_user)
),
books AS (
  SELECT c.oid, c.relname, c.relowner, n.nspname, n.nspowner
  FROM unnest(CAST(:tables AS text[])) AS wanted (table_name)
  JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(wanted.table_name)
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
),
can_become AS (
  SELECT r.rolname, m.oid AS becomes
  FROM role AS r
  JOIN pg_catalog.pg_roles AS m ON pg_has_role(r.oid, m.oid, 'MEMBER')
  WHERE NOT r.rolsuper
),
excess (rolname, position, sentence) AS (
  SELECT rolname, 1, 'is a superuser' FROM role WHERE rolsuper
  UNION
  SELECT b.rolname, 1, 'may become the superuser ' || m.rolname
  FROM can_become AS b
  JOIN pg_catalog.pg_roles AS m ON m.oid = b.becomes
  WHERE m.rolsuper
  UNION
  SELECT b.rolname, 2, 'belongs to ' || m.rolname || ', which is as good as a superuser'
  FROM can_become AS b
  JOIN pg_catalog.pg_roles AS m ON m.oid = b.becomes
  WHERE m.rolname IN ('pg_execute_server_program', 'pg_write_server_files')
  UNION
  SELECT b.rolname, 3, 'may make roles'
  FROM can_become AS b
  JOIN pg_catalog.pg_roles AS m ON m.oid = b.becomes
  WHERE m.rolcreaterole
  UNION
  SELECT c.rolname, 4, 'owns ' || b.relname || ', or belongs to its owner'
  FROM can_become AS c
  JOIN books AS b ON b.relowner = c.becomes
  UNION
  SELECT c.rolname, 5, 'owns the schema ' || b.nspname || ', or belongs to its owner'
  FROM can_become AS c
  JOIN books AS b ON b.nspowner = c.becomes
  UNION
  SELECT c.rolname, 6, 'may ' || p.privilege || ' ' || b.relname
  FROM can_become AS c
  CROSS JOIN books AS b
  CROSS JOIN (VALUES ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('TRIGGER')) AS p (privilege)
  WHERE b.relowner <> c.becomes
    AND (has_table_privilege(c.becomes, b.oid, p.privilege)
         OR (p.privilege = 'UPDATE' AND has_any_column_privilege(c.becomes, b.oid, 'UPDATE')))
  UNION
  SELECT rolname, 7, 'may set session_replication_role, which turns triggers off'
  FROM can_become
  WHERE has_parameter_privilege(becomes, 'session_replication_role', 'SET')
)
SELECT rolname::text, array_agg(sentence ORDER BY position, sentence) AS sentences FROM excess GROUP BY rolname ORDER BY rolname
"""


async def excessive_privileges(engine: AsyncEngine) -> list[tuple[str, list[str]]]:
    """What the session's role, or the one that logged in, could do to the books beyond adding to them: (role, what it is or may).

    Raises DatabaseUnavailable.
    """
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            rows = await connection.execute(
                text(SELECT_EXCESSES), {"tables": list(APPEND_ONLY_TABLES)}
            )
            return [(role, list(sentences)) for role, sentences in rows]


# By its place which of the wanted privileges is not there, however the role might have come by it.
# What the privilege is about may be missing itself: then every answer is NULL.
SELECT_LACKING = """
SELECT w.place
FROM unnest(CAST(:roles AS text[]), CAST(:kinds AS text[]), CAST(:names AS text[]), CAST(:privileges AS text[]),
            CAST(:columns AS text[]), CAST(:arguments AS text[]))
     WITH ORDINALITY AS w (role, kind, name, privilege, column_name, arguments, place)
JOIN pg_catalog.pg_roles AS r ON r.rolname = w.role
LEFT JOIN pg_catalog.pg_attribute AS a
  ON w.column_name <> '' AND a.attrelid = to_regclass(w.name) AND a.attname = w.column_name
LEFT JOIN pg_catalog.pg_proc AS p
  ON w.kind = 'FUNCTION' AND p.proname = w.name AND pg_function_is_visible(p.oid)
  AND pg_get_function_identity_arguments(p.oid) = w.arguments
WHERE CASE
        WHEN w.kind = 'SEQUENCE' THEN has_sequence_privilege(r.oid, to_regclass(w.name), w.privilege)
        WHEN w.kind = 'FUNCTION' THEN has_function_privilege(r.oid, p.oid, w.privilege)
        WHEN w.column_name <> '' THEN has_column_privilege(r.oid, a.attrelid, a.attnum, w.privilege)
        ELSE has_table_privilege(r.oid, to_regclass(w.name), w.privilege)
      END IS NOT TRUE
ORDER BY w.place
"""


async def lacking_privileges(connection: AsyncConnection, roles: Sequence[str]) -> list[Privilege]:
    """What the newest schema grants these roles and they have not, on a session whose path leads to the books."""
    wanted = [privilege for privilege in privileges() if privilege.role in roles]
    rows = await connection.execute(
        text(SELECT_LACKING),
        {
            "roles": [privilege.role for privilege in wanted],
            "kinds": [privilege.kind for privilege in wanted],
            "names": [privilege.name for privilege in wanted],
            "privileges": [privilege.privilege for privilege in wanted],
            "columns": [privilege.column for privilege in wanted],
            "arguments": [privilege.arguments for privilege in wanted],
        },
    )
    return [wanted[place - 1] for (place,) in rows]
