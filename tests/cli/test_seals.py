"""`ledger seals`, each test on a separate database."""

import json

import pytest
from support.commands import run_command
from support.events import event_message
from support.running import RunningLedger, query
from support.seals import seal_everything

from ledger.cli.failures import ExitStatus


async def test_head_now_and_before(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head at an instant is the latest seal before it; rows without a seal are counted."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    outcome = await run_command("seals", "head")
    assert (outcome.status, outcome.stdout) == (0, "nothing was sealed\nnot sealed yet: no rows\n")
    heads = []
    for _ in range(2):
        await ledger.ingest(event_message())
        outcome = await run_command("seals", "head")
        assert outcome.status == ExitStatus.REFUSED
        assert outcome.stdout.endswith("not sealed yet: 2 rows\n")
        await seal_everything(ledger.database.url)
        outcome = await run_command("seals", "head", "--json")
        assert outcome.status == 0
        heads.append(json.loads(outcome.stdout))
    stored = await query(
        ledger.database.migration_url, "SELECT encode(hash, 'hex') FROM ledger_seals ORDER BY 1"
    )
    assert sorted(head["hash"] for head in heads) == [hash_ for (hash_,) in stored]
    assert [head["sequence"] for head in heads] == [1, 2]
    assert [head["rows_not_sealed"] for head in heads] == [0, 0]
    outcome = await run_command("seals", "head", "--at", heads[1]["sealed_at"])
    assert outcome.status == 0
    assert outcome.stdout.splitlines()[0] == f"head: {heads[0]['hash']}"
    outcome = await run_command("seals", "head", "--at", "2001-01-01")
    assert outcome.stdout == "nothing was sealed\nnot sealed yet: no rows\n"
    assert (await run_command("seals", "head", "--at", "yesterday")).status == ExitStatus.USAGE
