"""What a session could do to the books beyond adding to them."""

from contextlib import aclosing

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.engine import connect
from ledger.infrastructure.postgres.errors import database_errors

# What is only ever added to.
APPEND_ONLY_TABLES = ("processor_events", "ledger_entries", "ledger_seals", "ledger_stays", "audit_log", "payout_items")

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
            rows = await connection.execute(text(SELECT_EXCESSES), {"tables": list(APPEND_ONLY_TABLES)})
            return [(role, list(sentences)) for role, sentences in rows]
