"""A gateway that is killed between any two steps of a delivery: sent again, it is booked the same.

Each process kills itself by SIGKILL before or after a call of its ledger, so no clean-up runs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.commands import INTERRUPTIBLE, start_process
from support.events import event_message, unique
from support.gateway import body_of, charge, gateway_file, gateway_on, request_of
from support.running import RunningLedger
from support.waiting import DEADLINE_SECONDS, until

from ledger.cli.gateway.serving import READY_PREFIX
from ledger.client import AsyncLedger
from ledger.gateway.books import RemoteBooks
from ledger.v1 import ledger_pb2

# Runs the command with the tests' processor, and kills it at a call of the ledger: "ingest 2 after"
# is after the second event was booked.
KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import support.gateway
from ledger.gateway.books import RemoteBooks

name, number, when = os.environ["KILLED_AT"].split()
method, calls = getattr(RemoteBooks, name), 0

async def killing(self, *arguments):
    global calls
    calls += 1
    is_last = calls == int(number)
    if is_last and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    response = await method(self, *arguments)
    if is_last:
        os.kill(os.getpid(), signal.SIGKILL)
    return response

setattr(RemoteBooks, name, killing)
del os.environ["KILLED_AT"]
{INTERRUPTIBLE}
"""

# Between verifying and booking, between two facts, between booking and the quarantine, and between
# the quarantine and the answer.
STEPS = ("ingest 1 before", "ingest 1 after", "ingest 2 after", "quarantine 1 after")
# In the worker: between booking and recording the outcome, and after it is recorded.
WORKER_STEPS = ("ingest 1 after", "resolve 1 after")


@dataclass(frozen=True, slots=True)
class Killed:
    """A gateway process that is ready, and how to wait for its end."""

    process: asyncio.subprocess.Process
    port: int

    async def has_been_killed(self) -> None:
        """Waits for the end, and asserts that it was SIGKILL."""
        await asyncio.wait_for(self.process.wait(), DEADLINE_SECONDS)
        assert self.process.returncode == -9


@asynccontextmanager
async def killed_gateway(path: Path, ledger: RunningLedger, step: str) -> AsyncIterator[Killed]:
    """A `ledger gateway` that kills itself at a step."""
    process = await start_process(
        "--address",
        ledger.address,
        "gateway",
        "--config",
        str(path),
        program=KILLED,
        env={"KILLED_AT": step, "LEDGER_LOG_LEVEL": "error"},
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), DEADLINE_SECONDS)
        assert line, (await process.communicate())[1].decode()
        url = line.decode().strip().removeprefix(f"{READY_PREFIX}http://")
        yield Killed(process, int(url.rpartition(":")[2]))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def state_of(ledger: RunningLedger, *ids: str) -> list[tuple[Any, ...]]:
    """How many events, entries and payloads there are of these events and bodies."""
    return await ledger.query(
        """
        SELECT (SELECT count(*) FROM processor_events WHERE event_id = ANY(:ids)),
               (SELECT count(*) FROM ledger_entries WHERE event_id = ANY(:ids)),
               (SELECT count(*) FROM quarantined_payloads
                WHERE convert_from(body, 'UTF8') LIKE '%' || :last || '%')
        """,
        ids=list(ids),
        last=ids[-1],
    )


async def post_until_killed(path: Path, ledger: RunningLedger, step: str, body: bytes) -> None:
    """Posts a body at a gateway that kills itself at a step. There is no answer."""
    async with killed_gateway(path, ledger, step) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_of(body))
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass
        finally:
            writer.close()
        await gateway.has_been_killed()


async def test_a_delivery_that_is_cut_off_anywhere_is_booked_the_same_when_it_comes_again(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    """Two charges and something that cannot be booked, in one delivery for each step."""
    path = gateway_file(tmp_path, poll_seconds=600)
    facts = {step: (unique("ch"), unique("ch"), unique("odd")) for step in STEPS}
    bodies = {
        step: body_of(charge(one), charge(two), {"unbookable": "ODD", "id": odd})
        for step, (one, two, odd) in facts.items()
    }
    await asyncio.gather(
        *(post_until_killed(path, shared_ledger, step, bodies[step]) for step in STEPS)
    )
    left = [(await state_of(shared_ledger, *facts[step]))[0] for step in STEPS]
    assert left == [(0, 0, 0), (1, 1, 0), (2, 2, 0), (2, 2, 1)]
    async with (
        AsyncLedger(shared_ledger.address) as client,
        gateway_on(path, RemoteBooks(client.service)) as gateway,
    ):
        for step in STEPS:
            for _ in range(2):
                assert (await gateway.post(bodies[step])).status_code == 200
            assert await state_of(shared_ledger, *facts[step]) == [(2, 2, 1)], step


@pytest.mark.parametrize("step", WORKER_STEPS)
async def test_a_try_that_is_cut_off_anywhere_is_taken_up_by_the_next_gateway(
    shared_ledger: RunningLedger, tmp_path: Path, step: str
) -> None:
    """A refund that waited for its charge is booked once, and its delivery released."""
    path = gateway_file(tmp_path, poll_seconds=600)
    refund, event_id = unique("re"), unique("ch")
    body = body_of(charge(refund, type="refund_succeeded", account="", charge=event_id))
    async with (
        AsyncLedger(shared_ledger.address) as client,
        gateway_on(path, RemoteBooks(client.service)) as gateway,
    ):
        assert (await gateway.post(body)).status_code == 200
    await shared_ledger.ingest(event_message(event_id=event_id, restaurant_id=unique("res")))
    listed = await shared_ledger.stub.ListQuarantined(
        ledger_pb2.ListQuarantinedRequest(with_bodies=True)
    )
    parked = next(one for one in listed.payloads if one.body == body)
    await shared_ledger.stub.RetryQuarantined(
        ledger_pb2.RetryQuarantinedRequest(quarantine_ids=[parked.quarantine_id])
    )
    async with killed_gateway(path, shared_ledger, step) as killed:
        await killed.has_been_killed()
    async with (
        AsyncLedger(shared_ledger.address) as client,
        gateway_on(gateway_file(tmp_path), RemoteBooks(client.service)),
    ):
        request = ledger_pb2.GetQuarantinedRequest(quarantine_id=parked.quarantine_id)

        async def is_released() -> bool:
            payload = (await shared_ledger.stub.GetQuarantined(request)).payload
            return bool(payload.state == ledger_pb2.QUARANTINE_STATE_RELEASED)

        await until(is_released)
    payload = (await shared_ledger.stub.GetQuarantined(request)).payload
    assert list(payload.moves[-1].event_ids) == [refund]
    assert payload.move_number == 3
    assert await state_of(shared_ledger, refund) == [(1, 1, 1)]
