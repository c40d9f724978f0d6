"""The privileges of the session's role: what it could do to the books, and what it lacks."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.schema.newest_schema import Privilege, privileges
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import autocommit

# Tables to which rows are added and in which no row changes.
APPEND_ONLY_TABLES = (
    "processor_events",
    "ledger_entries",
    "ledger_seals",
    "ledger_stays",
    "audit_log",
    "payout_items",
    "archived_ranges",
    "archived_run_outcomes",
    "ledger_verifications",
)

# $1: the append-only tables. Two roles are examined: the one that the session runs as, and the one
# that logged in, which RESET ROLE restores. For each, the privileges count that it holds itself or
# could hold by SET ROLE, inherited or not. A superuser holds all privileges and is listed once.
#
# Up to PostgreSQL 15 a role that may make roles may become any role. A role with TRIGGER could
# discard rows in a trigger. The owner of the schema may drop tables; for the schema public that is
# pg_database_owner, to which the database's owner belongs.
SELECT_EXCESSES = """
WITH role AS (
  SELECT oid, rolname, rolsuper, rolcreaterole FROM pg_catalog.pg_roles
  WHERE rolname IN (session_user, current_user)
),
books AS (
  SELECT c.oid, c.relname, c.relowner, n.nspname, n.nspowner
  FROM unnest($1::text[]) AS wanted (table_name)
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
SELECT rolname::text, array_agg(sentence ORDER BY position, sentence) AS sentences
FROM excess
GROUP BY rolname
ORDER BY rolname
"""


async def excessive_privileges(engine: AsyncEngine) -> list[tuple[str, list[str]]]:
    """What the session's role, or the role that logged in, could do to the books beyond adding.

    Each such role with what it is or may do, in words. Raises DatabaseUnavailable.
    """
    async with autocommit(engine) as connection:
        rows = await connection.fetch(SELECT_EXCESSES, list(APPEND_ONLY_TABLES))
    return [(row["rolname"], list(row["sentences"])) for row in rows]


# The places, from 1, of the wanted privileges that the role does not hold, by a grant or otherwise.
# Where the table, column or function itself is missing, PostgreSQL's function returns NULL.
SELECT_LACKING = """
SELECT w.place
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
     WITH ORDINALITY AS w (role, kind, name, privilege, column_name, arguments, place)
JOIN pg_catalog.pg_roles AS r ON r.rolname = w.role
LEFT JOIN pg_catalog.pg_attribute AS a
  ON w.column_name <> '' AND a.attrelid = to_regclass(w.name) AND a.attname = w.column_name
LEFT JOIN pg_catalog.pg_proc AS p
  ON w.kind = 'FUNCTION' AND p.proname = w.name AND pg_function_is_visible(p.oid)
  AND pg_get_function_identity_arguments(p.oid) = w.arguments
WHERE CASE
        WHEN w.kind = 'SEQUENCE' THEN
          has_sequence_privilege(r.oid, to_regclass(w.name), w.privilege)
        WHEN w.kind = 'FUNCTION' THEN has_function_privilege(r.oid, p.oid, w.privilege)
        WHEN w.column_name <> '' THEN
          has_column_privilege(r.oid, a.attrelid, a.attnum, w.privilege)
        ELSE has_table_privilege(r.oid, to_regclass(w.name), w.privilege)
      END IS NOT TRUE
ORDER BY w.place
"""


async def lacking_privileges(connection: Connection, roles: Sequence[str]) -> list[Privilege]:
    """What the newest schema grants these roles and they do not hold.

    For a session whose path leads to the books.
    """
    wanted = [privilege for privilege in privileges() if privilege.role in roles]
    rows = await connection.fetch(
        SELECT_LACKING,
        [privilege.role for privilege in wanted],
        [privilege.kind for privilege in wanted],
        [privilege.name for privilege in wanted],
        [privilege.privilege for privilege in wanted],
        [privilege.column for privilege in wanted],
        [privilege.arguments for privilege in wanted],
    )
    return [wanted[row["place"] - 1] for row in rows]
