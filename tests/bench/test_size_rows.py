"""The row of the size of the books: its parts, and its place among the arguments."""

import asyncpg
import pytest
from support.running import query

from ledger.bootstrap.database import Database
from scripts.bench.__main__ import parse
from scripts.bench.size_rows import LARGE_TABLES, parts_of


async def test_parts_are_all_that_is_on_disk(database: Database) -> None:
    """Nothing is left out, and nothing is counted twice."""
    url = database.migration_url.replace("+asyncpg", "")
    connection = await asyncpg.connect(url)
    try:
        found = await parts_of(connection)
    finally:
        await connection.close()
    ((size_bytes,),) = await query(
        database.migration_url,
        "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    assert sum(found.values()) == size_bytes
    for table in LARGE_TABLES:
        assert {f"{table}, rows", f"{table}, out of line", f"{table}_pkey"} <= found.keys()


@pytest.mark.parametrize("events", ["0", "-1", "many"])
def test_number_of_events_is_a_positive_number(
    events: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--only", "size", "--events", events])
    assert "--events" in capsys.readouterr().err
