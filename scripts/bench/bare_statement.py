"""A process that runs the ledger's SQL statement on bare connections: the limit of the service."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

import uuid_utils
import uuid_utils.compat

from ledger.application.ports.events import Posting
from ledger.domain.events import EventType, ProcessorEvent, fingerprint
from ledger.infrastructure.postgres.event_ledger import INSERT_EVENTS, insert_statement
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from scripts.bench.jobs import Interval, Outcome, Run, run_worker
from scripts.bench.wire import AMOUNT_MINOR, FEE_MINOR, restaurants

# As much is prepared and no more: a faster machine ends its interval early.
EVENTS_PER_SECOND_MAX = 150_000
BATCHES_PER_SECOND_MAX = 8_000
MATURITY_DAYS = 7


def postings(prefix: str, number: int, templates: Sequence[Posting]) -> list[Posting]:
    """Events to book. Only their ids differ: calculating each would take too long."""
    made = []
    for place in range(number):
        template = templates[place % len(templates)]
        event = template.event
        made.append(
            Posting(
                ProcessorEvent(
                    f"{prefix}.{place:09d}",
                    event.type,
                    event.restaurant_id,
                    event.currency,
                    event.amount_minor,
                    event.fee_minor,
                    event.occurred_at,
                    "",
                    "",
                    event.metadata,
                ),
                template.fingerprint,
                str(uuid_utils.uuid7()),
            )
        )
    return made


def template(restaurant_id: str, currency: str) -> Posting:
    """A charge of a restaurant."""
    event = ProcessorEvent(
        event_id="template",
        type=EventType.CHARGE_SUCCEEDED,
        restaurant_id=restaurant_id,
        currency=currency,
        amount_minor=AMOUNT_MINOR,
        fee_minor=FEE_MINOR,
        occurred_at=datetime.now(UTC) - timedelta(days=1),
        payout_id="",
        reference="",
        metadata={},
    )
    return Posting(event, fingerprint(event), str(uuid_utils.uuid7()))


async def prepare(job: dict[str, Any]) -> Run:
    """Makes the parameters of every statement, and opens the connections."""
    events = job["events"]
    batches_max = (
        min(BATCHES_PER_SECOND_MAX, math.ceil(EVENTS_PER_SECOND_MAX / events)) * job["seconds"]
    )
    templates = [
        template(restaurant_id, job["currency"])
        for restaurant_id in restaurants(job["currency"], job["restaurants"])
    ]
    prepared = iter(
        [
            insert_statement(
                postings(f"{job['prefix']}.{batch}", events, templates),
                uuid_utils.compat.uuid7(),
                maturity_days=MATURITY_DAYS,
            )[1]
            for batch in range(math.ceil(batches_max))
        ]
    )

    # With the session settings of the service, for the same plans.
    engine = create_engine(job["url"], pool_size=job["connections"])
    stack = AsyncExitStack()
    stack.push_async_callback(engine.dispose)
    connections = [
        await stack.enter_async_context(autocommit(engine)) for _ in range(job["connections"])
    ]
    statements = [await connection.prepare(INSERT_EVENTS) for connection in connections]

    async def run(interval: Interval) -> Outcome:
        outcome = Outcome()

        async def feed(statement: Any) -> None:
            began = time.monotonic()
            while True:
                arguments = next(prepared, None)
                if arguments is None:
                    outcome.ran_dry_at = began
                    return
                if len(await statement.fetch(*arguments)) != events:
                    raise RuntimeError("the statement did not store all events")
                outcome.add(began, events)
                if (began := time.monotonic()) >= interval.ends_at:
                    return

        async with stack, asyncio.TaskGroup() as feeding:
            for statement in statements:
                feeding.create_task(feed(statement))
        return outcome

    return run


if __name__ == "__main__":
    run_worker(prepare, uvloop=find_spec("uvloop") is not None)
