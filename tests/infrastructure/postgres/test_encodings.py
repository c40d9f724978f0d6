"""Databases whose encoding cannot store every text.

No server starts there, and a text that cannot be stored fails no other caller.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import make_url
from support.audit import audit_of
from support.books import restore
from support.commands import run_process
from support.events import event_message, unique
from support.running import execute_alone, running_ledger

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.infrastructure.postgres.schema.migrations import database_url
from ledger.v1 import ledger_pb2

ENCODINGS = ("LATIN1", "SQL_ASCII")
# A letter that LATIN1 lacks. SQL_ASCII stores its bytes without knowing their meaning.
ODD = "漢"


@pytest.fixture(params=ENCODINGS)
async def encoded(
    request: pytest.FixtureRequest, server_url: str, database: Database
) -> AsyncIterator[tuple[str, Database]]:
    """An encoding, and books that were restored into a database with it."""
    name = f"{make_url(database.migration_url).database}_{request.param.lower()}"
    await execute_alone(
        server_url,
        f"CREATE DATABASE {name} ENCODING '{request.param}' LOCALE 'C' LOCALE_PROVIDER libc "
        "TEMPLATE template0",
    )
    urls = [database_url(url, database=name) for url in (database.url, database.migration_url)]
    await restore(database.migration_url, urls[1])
    yield request.param, Database(urls[0], urls[1])
    await execute_alone(server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_encoding_that_lacks_letters_is_refused(encoded: tuple[str, Database]) -> None:
    """One line names it. The doctor refuses it too."""
    encoding, database = encoded
    env = {
        "LEDGER_DATABASE_URL": database.url,
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        "LEDGER_REQUIRE_DURABLE_DATABASE": "false",
        "LEDGER_REQUIRE_RESTRICTED_ROLE": "false",
    }
    served, examined = await asyncio.gather(
        run_process("serve", env=env), run_process("doctor", "--json", env=env)
    )
    assert (served.status, served.stdout) == (ExitStatus.REFUSED, "")
    assert served.stderr.startswith(
        f"error: the database has the encoding {encoding}, which cannot keep every text"
    )
    assert len(served.stderr.splitlines()) == 1
    assert examined.status == ExitStatus.REFUSED
    assert f"the encoding {encoding}" in examined.stdout


async def test_text_that_cannot_be_stored_fails_no_other_event(
    encoded: tuple[str, Database],
) -> None:
    """For books that are in such a database already.

    The other events of its batch and of its group are booked.
    """
    _, database = encoded
    async with running_ledger(database) as ledger:
        events = [event_message(restaurant_id=unique("res")) for _ in range(20)]
        events[7].metadata["name"] = f"\x1b{ODD}"
        results = await ledger.ingest(*events)
        booked = [
            place
            for place, result in enumerate(results)
            if result.status == ledger_pb2.INGEST_STATUS_CREATED
        ]
        assert [place for place in range(20) if place != 7] == [
            place for place in booked if place != 7
        ]
        again = [event_message(restaurant_id=unique("res")) for _ in range(20)]
        again[3].metadata["name"] = f"\x1b{ODD}"
        calls = (
            ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event)) for event in again
        )
        responses = await asyncio.gather(*calls, return_exceptions=True)
        assert [
            place for place, response in enumerate(responses) if isinstance(response, BaseException)
        ] in ([], [3])
    assert [finding.check for finding in (await audit_of(database)).errors] == [
        "the_database_keeps_every_text"
    ]
