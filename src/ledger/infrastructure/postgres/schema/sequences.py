"""Identity sequences behind their tables, as after logical replication and some dumps."""

from dataclasses import dataclass

from ledger.infrastructure.postgres.schema.newest_schema import tables
from ledger.infrastructure.postgres.sessions.driver import Connection

SELECT_IDENTITIES = """
SELECT c.relname::text, a.attname::text,
       pg_get_serial_sequence(c.oid::regclass::text, a.attname)
FROM unnest($1::text[]) AS wanted (table_name)
JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(wanted.table_name)
JOIN pg_catalog.pg_attribute AS a
  ON a.attrelid = c.oid AND a.attidentity <> '' AND NOT a.attisdropped
ORDER BY c.relname
"""


@dataclass(frozen=True, slots=True)
class LaggingSequence:
    """A sequence whose `next_value` is not above `highest`, the highest value in the table."""

    table: str
    column: str
    sequence: str
    next_value: int
    highest: int

    @property
    def sentence(self) -> str:
        return (
            f"the sequence of {self.table}.{self.column} gives {self.next_value} next,"
            f" and the table has {self.highest}"
        )


async def lagging_sequences(connection: Connection) -> list[LaggingSequence]:
    """The lagging sequences of the books, on a session whose path leads to them."""
    lagging = []
    for table, column, sequence in await connection.fetch(SELECT_IDENTITIES, [*tables()]):
        row = await connection.fetchrow(
            f"SELECT s.last_value + s.is_called::integer AS next_value,"
            f" (SELECT max({column}) FROM {table}) AS highest FROM {sequence} AS s"
        )
        if row and row["highest"] is not None and row["next_value"] <= row["highest"]:
            lagging.append(
                LaggingSequence(table, column, sequence, row["next_value"], row["highest"])
            )
    return lagging


async def advance(connection: Connection, lagging: LaggingSequence) -> None:
    """Moves the sequence past the table's values, as the owner of both.

    Never moves it back: servers that run may have taken further values in the meantime.
    """
    highest = f"GREATEST(s.last_value, (SELECT max({lagging.column}) FROM {lagging.table}))"
    statement = f"SELECT setval('{lagging.sequence}', {highest}) FROM {lagging.sequence} AS s"
    await connection.execute(statement)
