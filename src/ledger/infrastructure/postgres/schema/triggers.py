"""Triggers that are not on as they were made, as dumps with --disable-triggers leave them."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.infrastructure.postgres.schema.newest_schema import tables, trigger_states

SELECT_TRIGGERS = """
SELECT c.relname::text, t.tgname::text, t.tgenabled::text
FROM unnest(CAST(:tables AS text[])) AS wanted (name)
JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = to_regclass(wanted.name) AND NOT t.tgisinternal
JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
ORDER BY c.relname, t.tgname
"""

# By pg_trigger.tgenabled.
_STATES = {
    "O": "in ordinary sessions",
    "D": "in no session",
    "R": "in replication alone",
    "A": "in every session",
}


async def triggers_off(connection: AsyncConnection) -> list[tuple[str, str, str]]:
    """Each such trigger: its name, the statement that turns it on, and a sentence about it.

    Not those of foreign keys, which are a superuser's to turn on: the audit tells of them.
    """
    found = []
    wanted = trigger_states()
    rows = await connection.execute(text(SELECT_TRIGGERS), {"tables": [*tables()]})
    for table, name, state in list(rows):
        right = wanted.get((table, name), state)
        if state != right:
            always = "ALWAYS " if right == "A" else ""
            statement = f"ALTER TABLE {table} ENABLE {always}TRIGGER {name}"
            found.append(
                (
                    name,
                    statement,
                    f"the trigger {name} is on {_STATES[state]}, not {_STATES[right]}",
                )
            )
    return found
