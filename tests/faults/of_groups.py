"""A group under Patroni, for `make failover`. Skipped without Patroni, etcd or HAProxy."""

import asyncio
import signal
import time

from faults.catalogue import fault
from faults.groups import TTL_SECONDS, Group, Member, patroni_group
from faults.load import Mix, load_on
from faults.of_hosts import asking
from faults.servers import ServerProcess
from faults.stage import GAP_FACTOR, Stage

# What a server may add to the gap of the group itself.
ADDED_SECONDS = 1.0
# HAProxy needs two checks to notice a new primary.
ADDED_BY_HAPROXY_SECONDS = 4.0


async def _servers(stage: Stage, group: Group, *, haproxy: bool) -> list[ServerProcess]:
    """Two servers of the group's database, which the stage is moved onto."""
    stage.database = group.database
    if haproxy:
        group.start_haproxy()
    url = group.url(group.proxy_port) if haproxy else group.url()
    return list(
        await asyncio.gather(*(stage.server(env={"LEDGER_DATABASE_URL": url}) for _ in range(2)))
    )


async def _kill(group: Group, leader: Member) -> None:
    """The host dies at once, and comes back once another one has taken over."""
    leader.signal(signal.SIGKILL)


async def _freeze(group: Group, leader: Member) -> None:
    """The host stands still, and wakes up once another one has taken over."""
    leader.signal(signal.SIGSTOP)


async def _switch_over(group: Group, leader: Member) -> None:
    """The host hands over in good order."""
    await group.switchover(leader)


async def _play(stage: Stage, way: str, *, haproxy: bool = False) -> None:
    """Changes the primary under load and compares the callers' gap with the group's."""
    hurt = {"kill": _kill, "freeze": _freeze, "switchover": _switch_over}[way]
    group = await stage.exits.enter_async_context(patroni_group())
    servers = await _servers(stage, group, haproxy=haproxy)
    async with (
        load_on(stage.load(*servers, mix=Mix(callers=16, timeout_seconds=3))) as load,
        asking(stage, servers),
    ):
        await load.acknowledged(stage.size(1_000, 100))
        for _ in range(stage.size(2, 1)):
            leader = await group.leader()
            began = time.monotonic()
            writing = asyncio.create_task(group.writes_elsewhere(leader))
            await hurt(group, leader)
            own_at = await writing
            while not any(instant > own_at for instant in stage.journal.ack_instants):
                await load.acknowledged(1)
            added = (
                min(instant for instant in stage.journal.ack_instants if instant > own_at) - own_at
            )
            stage.note(
                f"the group's own gap {own_at - began:.2f} s, acknowledged {added:.2f} s later"
            )
            allowed = ADDED_BY_HAPROXY_SECONDS if haproxy else ADDED_SECONDS
            assert added <= GAP_FACTOR * allowed
            # Now both act as the primary, until Patroni has noticed.
            leader.signal(signal.SIGCONT)
            if way == "kill":
                group.start_member(leader)
            await load.acknowledged(stage.size(1_000, 100))
    stage.gap_within(TTL_SECONDS + 10)


@fault("F60", "Patroni: a switchover")
async def switchover(stage: Stage) -> None:
    """Servers with a URL of all members go over to the new primary."""
    await _play(stage, "switchover")


@fault("F61", "Patroni: the primary's host is killed")
async def killed(stage: Stage) -> None:
    """It comes back as a standby."""
    await _play(stage, "kill")


@fault("F62", "Patroni: the primary's host stands still and wakes up")
async def frozen(stage: Stage) -> None:
    """When it wakes up it acts as the primary, until Patroni has noticed."""
    await _play(stage, "freeze")


@fault("F63", "Patroni behind HAProxy: the primary's host stands still and wakes up")
async def frozen_behind_haproxy(stage: Stage) -> None:
    """Servers know only the address of HAProxy."""
    await _play(stage, "freeze", haproxy=True)


@fault("F64", "Patroni behind HAProxy: a switchover")
async def switchover_behind_haproxy(stage: Stage) -> None:
    """Servers know only the address of HAProxy."""
    await _play(stage, "switchover", haproxy=True)
