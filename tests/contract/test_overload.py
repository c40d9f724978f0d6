"""The overload script in its short form: a few seconds with a small queue."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 240.0


@pytest.mark.usefixtures("starts_postgres")
async def test_overloaded_server_refuses_some_calls_and_loses_none() -> None:
    """At ten times the peak some events are booked, others receive QUEUE_FULL and are sent later.

    Every acknowledged event is stored, health checks succeed, and the memory is bounded. How much
    work is done is measured by `make overload` on a quiet machine.
    """
    with tempfile.TemporaryDirectory(prefix="ledger-overload-test-") as folder:
        results = Path(folder) / "overload.json"
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "scripts.overload",
                "--short",
                "--seconds",
                "1.5",
                "--results",
                str(results),
            ),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        stdout, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
        assert process.returncode == 0, stdout.decode()
        result = json.loads(results.read_bytes())
    assert result["outcomes"]["OK"]
    assert result["outcomes"]["RESOURCE_EXHAUSTED QUEUE_FULL"]
    assert result["outcomes"]["not sent: asked to wait"]
    assert result["health_checks"]
    assert result["acknowledged"] <= result["stored"]
    # Far less than what was offered: a call that waits costs some 16 KiB.
    assert result["rss_peak_mib"] < result["rss_before_mib"] + 512
    assert result["log_lines"] < 100
