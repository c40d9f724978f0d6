"""Servers that die while they pay; runs, and answers of the bank, that race."""

import asyncio

from support.events import event_message

from faults.catalogue import fault
from faults.journal import Reply
from faults.load import load_on
from faults.paying import (
    CURRENCY,
    change_profile,
    charge_restaurants,
    finished,
    paid_once,
    start_run,
)
from faults.stage import Stage
from ledger.v1 import ledger_pb2


@fault("F22", "a server killed while it pays")
async def killed_while_paying(stage: Stage) -> None:
    """Killed at random instants of runs under load: each restaurant is paid once."""
    restaurants, rounds = stage.size(4_000, 1_000), stage.size(8, 1)
    # One server: the worker of a second would take the run over at once.
    server = await stage.server()
    await charge_restaurants(stage.caller(server), restaurants)
    progress = []
    async with load_on(stage.load(server)) as load:
        for _ in range(rounds):
            await load.acknowledged(10)
            caller = stage.caller(server)
            await start_run(caller)
            await asyncio.sleep(stage.chance.uniform(0, 0.15))
            await server.kill()
            progress += [count for (count,) in await stage.query("SELECT count(*) FROM payouts")]
            await server.start()
        await finished(stage.caller(server), await start_run(stage.caller(server)))
        await load.acknowledged(100)
    await paid_once(stage, restaurants)
    assert all(count % 500 == 0 for count in progress), "a page is paid whole or not at all"
    stage.note(f"payouts after each of {rounds} kills: {', '.join(map(str, progress))}")


@fault("F23", "the same run many times at once")
async def same_run(stage: Stage) -> None:
    """24 calls of two servers start three runs of one date: each restaurant is paid once."""
    restaurants = stage.size(2_000, 300)
    callers = [stage.caller(server) for server in await stage.servers(2)]
    await charge_restaurants(callers[0], restaurants)
    ids = await asyncio.gather(
        *(start_run(callers[place % 2], request_id=f"request_{place % 3}") for place in range(24)),
    )
    assert len(set(ids)) == 3
    runs = [await finished(callers[0], payout_run_id) for payout_run_id in set(ids)]
    assert sum(run.payouts_created for run in runs) == restaurants
    await paid_once(stage, restaurants)
    stage.note(
        f"24 calls, 3 runs, payouts of each: {', '.join(str(run.payouts_created) for run in runs)}"
    )


@fault("F24", "runs of different dates at once")
async def different_dates(stage: Stage) -> None:
    """Runs of four dates race, with new charges in between: no payout exceeds the balance."""
    restaurants = stage.size(1_000, 200)
    callers = [stage.caller(server) for server in await stage.servers(2)]
    for round_ in range(stage.size(3, 2)):
        await charge_restaurants(callers[0], restaurants, round_=round_)
        requests = (
            start_run(callers[days % 2], days_ago=days, request_id=f"round_{round_}")
            for days in (3, 0, 2, 1)
        )
        for payout_run_id in await asyncio.gather(*requests):
            await finished(callers[1], payout_run_id)
    overpaid = await stage.query(
        """
        SELECT balance_account_id FROM (
          SELECT a.balance_account_id,
                 (SELECT sum(amount_minor - fee_minor) FROM processor_events AS v
                  WHERE v.restaurant_id = a.restaurant_id AND v.currency = a.currency) AS owed,
                 (SELECT sum(amount_minor) FROM payouts AS p
        WHERE p.balance_account_id = a.balance_account_id) AS paid
          FROM balance_accounts AS a WHERE a.currency = :currency) AS account
        WHERE paid > owed
        """,
        currency=CURRENCY,
    )
    assert overpaid == []
    in_flight = await stage.query(
        "SELECT count(*), count(DISTINCT balance_account_id) FROM payouts WHERE state = 'CREATED'"
    )
    assert in_flight == [(restaurants, restaurants)]


@fault("F25", "paid and failed race for one payout")
async def answers_race(stage: Stage) -> None:
    """64 callers of two servers report paid and failed at once: each payout has one history."""
    callers = [stage.caller(server) for server in await stage.servers(2)]
    restaurants = stage.size(30, 5)
    await charge_restaurants(callers[0], restaurants)
    await finished(callers[0], await start_run(callers[0]))
    payouts = (
        await callers[0].stub.ListPayouts(ledger_pb2.ListPayoutsRequest(page_size=1000))
    ).payouts
    states = []
    for payout in payouts:
        events = [
            event_message(
                kind,
                event_id=f"{ledger_pb2.EventType.Name(kind)}_{payout.payout_id}",
                restaurant_id=payout.restaurant_id,
                currency=CURRENCY,
                amount_minor=payout.amount_minor,
                payout_id=payout.payout_id,
            )
            for kind in (ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED)
        ]
        calls = await asyncio.gather(
            *(
                callers[place % 2].send(events[stage.chance.randrange(2)], timeout_seconds=30)
                for place in range(64)
            )
        )
        # Once more for each, in case no call sent it before.
        paid, failed = [await callers[0].send(event) for event in events]
        request = ledger_pb2.GetPayoutRequest(payout_id=payout.payout_id)
        state = ledger_pb2.PayoutState.Name(
            (await callers[0].stub.GetPayout(request)).payout.state
        ).removeprefix("PAYOUT_STATE_")
        # Whichever comes first, the two end in the same state.
        assert state == "RETURNED", (state, paid, failed)
        assert {paid.reply, failed.reply} <= {Reply.DUPLICATE, Reply.CREATED}
        assert {call.reply for call in calls} <= {
            Reply.DUPLICATE,
            Reply.CREATED,
            Reply.UNKNOWN,
        }
        reversals = await stage.query(
            "SELECT 1 FROM ledger_entries WHERE payout_id = :id AND entry_type = 'PAYOUT_REVERSAL'",
            id=payout.payout_id,
        )
        states.append("failed first" if reversals else "paid first")
    stage.note(
        f"{states.count('failed first')} failed first, {states.count('paid first')} were paid first"
    )


@fault("F85", "runs of named restaurants, holds and minimums, while a server is killed")
async def terms_change_while_paying(stage: Stage) -> None:
    """Profiles change and a server dies during overlapping runs: each payout is explained, and no
    restaurant is paid twice.
    """
    restaurants = stage.size(1_000, 100)
    names = [f"paid_{number:05d}" for number in range(restaurants)]
    servers = await stage.servers(2)
    callers = [stage.caller(server) for server in servers]
    await charge_restaurants(callers[1], restaurants)
    kept = {name: stage.chance.choice([1, 500, 5_000]) for name in names[::2]}
    for name, minimum in kept.items():
        await change_profile(callers[1], name, min_balance_minor=minimum)
    lists = [stage.chance.sample(names, restaurants // 2) for _ in range(stage.size(8, 3))]
    ids = [await start_run(callers[0], restaurants=each) for each in lists]
    held = stage.chance.sample(names, restaurants // 10)
    await asyncio.gather(
        servers[0].kill(), *(change_profile(callers[1], name, hold="killed") for name in held)
    )
    for payout_run_id in ids:
        await finished(callers[1], payout_run_id)
    await finished(callers[1], await start_run(callers[1]))
    again = [await start_run(callers[1], restaurants=each[::-1]) for each in lists]
    assert again == ids, "another order of the same restaurants is the same run"
    wrong = await stage.query(
        """
        SELECT a.restaurant_id, count(*), sum(p.amount_minor), max(p.retained_minor)
        FROM payouts AS p
        JOIN balance_accounts AS a USING (balance_account_id)
        JOIN restaurants AS r USING (restaurant_id)
        JOIN LATERAL (
          SELECT sum(v.amount_minor - v.fee_minor) AS owed FROM processor_events AS v
          WHERE v.restaurant_id = a.restaurant_id AND v.currency = a.currency) AS v ON true
        WHERE a.currency = :currency
        GROUP BY a.restaurant_id, v.owed, r.min_balance_minor
        HAVING count(*) <> 1
          OR max(p.retained_minor) <> COALESCE((r.min_balance_minor ->> :currency)::bigint, 0)
          OR sum(p.amount_minor) <> v.owed - max(p.retained_minor)
        """,
        currency=CURRENCY,
    )
    assert wrong == [], wrong[:5]
    unpaid = await stage.query(
        """
        SELECT i.restaurant_id, i.skip_reason FROM payout_run_items AS i
        WHERE i.skip_reason NOT IN ('ON_HOLD', 'MIN_BALANCE', 'PAYOUT_IN_FLIGHT')
        """
    )
    assert unpaid == [], unpaid[:5]
    skipped = await stage.query(
        "SELECT skip_reason, count(*) FROM payout_run_items"
        " WHERE skip_reason IS NOT NULL GROUP BY skip_reason"
    )
    stage.note(", ".join(f"{count} {reason}" for reason, count in sorted(skipped)))
