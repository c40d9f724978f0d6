"""`ledger gateway init` prints an example that is right, `schema` the schema of the code."""

import json
from pathlib import Path

from support.commands import run_command

from ledger.gateway.configuration import read


async def test_the_example_that_is_printed_is_a_file(tmp_path: Path) -> None:
    outcome = await run_command("gateway", "init")
    assert outcome.status == 0
    path = tmp_path / "gateway.toml"
    path.write_text(outcome.stdout, encoding="utf-8")
    assert read(path)[1]


async def test_the_schema_is_printed() -> None:
    outcome = await run_command("gateway", "schema")
    assert outcome.status == 0
    assert json.loads(outcome.stdout)["title"] == "The file of the ledger's webhook gateway"
