"""Identity sequences that are behind their tables, as logical replication and some dumps leave them."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.infrastructure.postgres.schema.newest_schema import tables

SELECT_IDENTITIES = """
SELECT c.relname::text, a.attname::text, pg_get_serial_sequence(c.oid::regclass::text, a.attname)
FROM unnest(CAST(:tables AS text[])) AS wanted (table_name)
JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(wanted.table_name)
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attidentity <> '' AND NOT a.attisdropped
ORDER BY c.relname
"""


@dataclass(frozen=True, slots=True)
class LaggingSequence:
    """`next_value` is one that a row of the table has, or that is below one."""

    table: str
    column: str
    sequence: str
    next_value: int
    highest: int

    @property
    def sentence(self) -> str:
        return f"the sequence of {self.table}.{self.column} gives {self.next_value} next, and the table has {self.highest}"


async def lagging_sequences(connection: AsyncConnection) -> list[LaggingSequence]:
    """The sequences whose next value is not above all that is in their table, on a session whose path leads to the books."""
    lagging = []
    for table, column, sequence in list(
        await connection.execute(text(SELECT_IDENTITIES), {"tables": list(tables())})
    ):
        statement = f"SELECT s.last_value + s.is_called::integer, (SELECT max({column}) FROM {table}) FROM {sequence} AS s"
        next_value, highest = (await connection.execute(text(statement))).one()
        if highest is not None and next_value <= highest:
            lagging.append(LaggingSequence(table, column, sequence, next_value, highest))
    return lagging


async def advance(connection: AsyncConnection, lagging: LaggingSequence) -> None:
    """Makes the sequence give what the table has not, as the owner of both.

    Never moves it back: servers that run may have taken more from it meanwhile.
    """
    highest = f"GREATEST(s.last_value, (SELECT max({lagging.column}) FROM {lagging.table}))"
    statement = f"SELECT setval('{lagging.sequence}', {highest}) FROM {lagging.sequence} AS s"
    await connection.execute(text(statement))
