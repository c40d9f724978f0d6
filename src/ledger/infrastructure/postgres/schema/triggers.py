"""Triggers that are not on as the migrations made them, as after a dump with --disable-triggers."""

from ledger.infrastructure.postgres.schema.newest_schema import tables, trigger_states
from ledger.infrastructure.postgres.sessions.driver import Connection

SELECT_TRIGGERS = """
SELECT c.relname::text, t.tgname::text, t.tgenabled::text
FROM unnest($1::text[]) AS wanted (name)
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


async def triggers_off(connection: Connection) -> list[tuple[str, str, str]]:
    """Each trigger that is not on as it was made: its name, the SQL that turns it on, a sentence.

    Leaves out the triggers of foreign keys: only a superuser can turn them on, and the audit
    reports them.
    """
    found = []
    wanted = trigger_states()
    for table, name, state in await connection.fetch(SELECT_TRIGGERS, [*tables()]):
        right = wanted.get((table, name), state)
        if state != right:
            always = "ALWAYS " if right == "A" else ""
            statement = f"ALTER TABLE {table} ENABLE {always}TRIGGER {name}"
            sentence = f"the trigger {name} is on {_STATES[state]}, not {_STATES[right]}"
            found.append((name, statement, sentence))
    return found
