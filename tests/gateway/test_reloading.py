"""A changed file is taken over without a restart; a faulty one changes nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from support.gateway import (
    RunningGateway,
    body_of,
    endpoint_table,
    gateway_file,
    gateway_on,
)

from ledger.client import AsyncLedger
from ledger.gateway.books import RemoteBooks
from ledger.gateway.configuration import load
from ledger.gateway.reloading import FileInForce

# What moves no money needs no ledger.
BODY = body_of({"ignored": "x"})


async def status(gateway: RunningGateway, *, name: str = "plain", secret: str) -> int:
    return (await gateway.post(BODY, name=name, secret=secret)).status_code


def two_secrets(old_ends: datetime) -> str:
    """The endpoint while its secret is rotated."""
    table = endpoint_table(secret="old")
    first = '{ name = "first", value = "old" }'
    assert first in table
    old = f'{{ name = "first", value = "old", not_after = {old_ends.isoformat()} }}'
    return table.replace(first, f'{{ name = "second", value = "new" }}, {old}')


async def test_a_secret_is_rotated_without_a_restart(tmp_path: Path) -> None:
    path = gateway_file(tmp_path, endpoint_table(secret="old"), poll_seconds=600)
    async with (
        AsyncLedger("127.0.0.1:1") as client,
        gateway_on(path, RemoteBooks(client.service)) as gateway,
    ):
        file = FileInForce(path, load(path), gateway.gateway)
        assert await status(gateway, secret="old") == 200
        assert await status(gateway, secret="new") == 400
        assert not await file.look()
        now = datetime.now(UTC)
        gateway_file(tmp_path, two_secrets(now + timedelta(hours=1)), poll_seconds=600)
        assert await file.look()
        assert await status(gateway, secret="old") == 200
        assert await status(gateway, secret="new") == 200
        gateway_file(tmp_path, two_secrets(now), poll_seconds=600)
        assert await file.look()
        assert await status(gateway, secret="old") == 400
        assert await status(gateway, secret="new") == 200
        await file.close()


async def test_a_faulty_file_changes_nothing_and_shows(tmp_path: Path) -> None:
    path = gateway_file(tmp_path, poll_seconds=600)
    async with (
        AsyncLedger("127.0.0.1:1") as client,
        gateway_on(path, RemoteBooks(client.service)) as gateway,
    ):
        file = FileInForce(path, load(path), gateway.gateway)
        path.write_text("no TOML", encoding="utf-8")
        assert not await file.look()
        assert (await gateway.post(BODY)).status_code == 200
        metrics = await gateway.client.get(f"{gateway.url}/metrics")
        assert "ledger_gateway_file_is_current 0.0" in metrics.text
        gateway_file(tmp_path, endpoint_table("other"), poll_seconds=600)
        assert await file.look(is_asked=True)
        assert (await gateway.post(BODY)).status_code == 404
        assert (await gateway.post(BODY, name="other")).status_code == 200
        await file.close()
