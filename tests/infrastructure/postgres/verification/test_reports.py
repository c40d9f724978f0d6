"""The reports: each equals an independent calculation, and reads only what it needs."""

import os
import random
import re
import sys
import time
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
import uuid_utils.compat
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from support.dates import days_ago
from support.events import event_message, unique
from support.paying import IMMEDIATE, MANUAL, open_account, order
from support.payout_runs import answer, finished_run
from support.psql import run_file
from support.running import RunningLedger, execute_alone, query
from support.seals import seal_everything

from ledger.application.run_payouts import run_payouts
from ledger.bootstrap.database import Database
from ledger.domain.payouts import PayoutRunKey
from ledger.errors import DatabaseUnavailable, InvalidRequest
from ledger.infrastructure.postgres.payout_runs import PostgresPayoutRuns
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.infrastructure.postgres.verification import reports
from ledger.infrastructure.postgres.verification.audit import audit, load_checks
from ledger.infrastructure.postgres.verification.reports import (
    Report,
    Value,
    load_queries,
    payout_eligibility,
    run_query,
)
from ledger.resources import resource
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

NOW = datetime.now(UTC).replace(microsecond=0)
WEEK = timedelta(days=7)
SETTLED = (ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED)

CHARGE, FEE = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED, ledger_pb2.EVENT_TYPE_FEE_ASSESSED
REFUND, DISPUTE = ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, ledger_pb2.EVENT_TYPE_DISPUTE_OPENED

# The events of the test of Q2: restaurant, currency, type, amount, fee, and how long before the end
# of the seven days.
REVENUE = [
    *[(f"res_{n:02}", "PEN", CHARGE, 1_000 * n, 10 * n, timedelta(hours=n)) for n in range(1, 13)],
    ("res_12", "PEN", REFUND, 500, 0, timedelta(hours=1)),
    ("res_11", "PEN", FEE, 77, 0, timedelta(hours=1)),
    # A dispute and its fee are no revenue and no share.
    ("res_11", "PEN", DISPUTE, 400, 40, timedelta(hours=1)),
    # Equal to res_09.
    ("res_tie", "PEN", CHARGE, 9_000, 90, timedelta(days=3)),
    # The first instant that counts, and the last one that does not; the first one after the end.
    ("res_edge", "PEN", CHARGE, 50_000, 0, WEEK),
    ("res_edge", "PEN", CHARGE, 60_000, 0, WEEK + timedelta(microseconds=1)),
    ("res_edge", "PEN", CHARGE, 70_000, 0, timedelta(0)),
    # A currency in which all together lost money.
    ("res_usd", "USD", CHARGE, 100, 0, timedelta(hours=1)),
    ("res_usd", "USD", REFUND, 300, 0, timedelta(hours=1)),
]


# A million entries and a hundred thousand payouts, of ten thousand restaurants, in ten rounds. $1
# is the number of the round. Rounds are ten days apart; the last one was three days ago. In each
# round a restaurant has three or four charges with a fee and about one refund, and is then paid.
CHARGES_A_ROUND, REFUNDS_A_ROUND, RESTAURANTS, ROUNDS = 35_000, 10_000, 10_000, 10
SEAL_TIMEOUT_SECONDS = 300

REGISTER_MANY = f"""
WITH registered AS (
  INSERT INTO restaurants (restaurant_id, name)
  SELECT 'res_' || lpad(n::text, 6, '0'), '' FROM generate_series(1, {RESTAURANTS}) AS n
  RETURNING restaurant_id
)
INSERT INTO balance_accounts (restaurant_id, currency) SELECT restaurant_id, 'PEN' FROM registered
"""

BOOK_MANY = f"""
WITH event AS (
  INSERT INTO processor_events (event_id, fingerprint, transaction_id, batch_id, type,
    restaurant_id, currency, amount_minor,
                                fee_minor, occurred_at, reference, recorded_at)
  SELECT 'evt_' || $1::int || '_' || e.n, sha256(convert_to(concat_ws(E'\\n', '1', e.type,
    e.restaurant_id, 'PEN', e.amount_minor,
         e.fee_minor, trim_scale(extract(epoch FROM e.occurred_at) * 1000000), '', e.reference),
           'UTF8')),
         gen_random_uuid(), gen_random_uuid(), e.type, e.restaurant_id, 'PEN', e.amount_minor,
           e.fee_minor, e.occurred_at,
         e.reference, e.occurred_at + interval '1 minute'
  FROM (
    SELECT n, CASE WHEN n <= {CHARGES_A_ROUND} THEN 'charge_succeeded' ELSE 'refund_succeeded' END
      AS type,
           'res_' || lpad((1 + (n - 1) % {CHARGES_A_ROUND} * 7919 % {RESTAURANTS})::text, 6,
             '0') AS restaurant_id,
           CASE WHEN n <= {CHARGES_A_ROUND} THEN 5000 + n % 100 ELSE 100 END AS amount_minor,
           CASE WHEN n <= {CHARGES_A_ROUND} THEN 250 ELSE 0 END AS fee_minor,
           'pay_' || $1::int || '_' || (n - 1) % {CHARGES_A_ROUND} AS reference,
           date_trunc('day', now()) - make_interval(days => 3 + 10 * ({ROUNDS} - $1::int)) +
             make_interval(secs => n)
             AS occurred_at
    FROM generate_series(1, {CHARGES_A_ROUND + REFUNDS_A_ROUND}) AS n
  ) AS e
  RETURNING event_id, transaction_id, type, restaurant_id, amount_minor, fee_minor, occurred_at,
    recorded_at
)
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
  debit_account, credit_account, amount_minor,
                            available_at, occurred_at, recorded_at, event_id)
SELECT a.balance_account_id, e.transaction_id, r.position, r.entry_type, r.debit_account,
  r.credit_account,
       CASE r.entry_type WHEN 'FEE' THEN e.fee_minor ELSE e.amount_minor END,
       CASE WHEN e.type = 'charge_succeeded' THEN e.occurred_at + interval '24 hours' END,
         e.occurred_at, e.recorded_at,
       e.event_id
FROM event AS e
JOIN balance_accounts AS a ON a.restaurant_id = e.restaurant_id
JOIN (VALUES ('charge_succeeded', 1, 'CHARGE', 'processor_clearing', 'restaurant_payable'),
             ('charge_succeeded', 2, 'FEE', 'restaurant_payable', 'platform_fees'),
             ('refund_succeeded', 1, 'REFUND', 'restaurant_payable', 'processor_clearing'))
     AS r (type, position, entry_type, debit_account, credit_account) ON r.type = e.type
"""

SETTLE_MANY = """
WITH paid AS (
  UPDATE payouts SET state = 'PAID' WHERE state = 'CREATED' RETURNING payout_id,
    balance_account_id, amount_minor
),
event AS (
  INSERT INTO processor_events (event_id, fingerprint, transaction_id, batch_id, type,
    restaurant_id, currency, amount_minor,
                                fee_minor, occurred_at, payout_id)
  SELECT 'paid_' || p.payout_id, sha256(convert_to(concat_ws(E'\\n', '1', 'payout_paid',
    a.restaurant_id, 'PEN', p.amount_minor,
         0, trim_scale(extract(epoch FROM now()) * 1000000), p.payout_id, ''), 'UTF8')),
         gen_random_uuid(), gen_random_uuid(), 'payout_paid', a.restaurant_id, 'PEN',
           p.amount_minor, 0, now(), p.payout_id
  FROM paid AS p
  JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
  RETURNING event_id, transaction_id, amount_minor, payout_id
)
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
  debit_account, credit_account, amount_minor,
                            occurred_at, event_id, payout_id)
SELECT p.balance_account_id, e.transaction_id, 1, 'PAYOUT_RELEASE', 'payout_reserved',
  'platform_cash', e.amount_minor, now(),
       e.event_id, p.payout_id
FROM event AS e
JOIN paid AS p ON p.payout_id::text = e.payout_id
"""

MIDNIGHT = NOW.replace(hour=0, minute=0, second=0)


def eligibility_terms(currency: str) -> dict[str, Value]:
    return {
        "currency": currency,
        "as_of": MIDNIGHT.date(),
        "begins_at": MIDNIGHT,
        "ends_at": MIDNIGHT + timedelta(days=1),
        "min_amount_minor": 0,
    }


# The parameters of each report, and the indexes that it must use; Q2 has none that fits. In these
# books every account is in PEN: only for other currencies Q1 and Q3 must not read the whole table.
PLANS: tuple[tuple[str, dict[str, Value], set[str]], ...] = (
    ("q1_balances", {"currency": "PEN"}, set()),
    ("q1_balances", {"currency": "EUR"}, {"ledger_entries_pkey"}),
    ("q2_top_restaurants", {"until_at": NOW}, set()),
    ("q3_payout_eligibility", eligibility_terms("PEN"), set()),
    ("q3_payout_eligibility", eligibility_terms("EUR"), {"ledger_entries_pkey"}),
    ("q4_integrity", {}, set()),
    ("account_balances", {"currency": "PEN"}, set()),
    ("restaurants_in_red", {"currency": "PEN"}, set()),
    ("restaurants_in_red", {"currency": "EUR"}, {"ledger_entries_pkey"}),
    (
        "payout_history",
        {"restaurant_id": "res_000042"},
        {
            "balance_accounts_restaurant_id_currency_key",
            "payouts_balance_account_id_sequence_key",
            "payout_items_pkey",
            "processor_events_payout_id_idx",
        },
    ),
)


async def report_of(ledger: RunningLedger, name: str, **parameters: Value) -> list[dict[str, Any]]:
    """The rows of a report by column."""
    return rows_of(await run_query(ledger.engine, name, parameters))


def rows_of(report: Report) -> list[dict[str, Any]]:
    assert report.is_complete
    return [dict(zip(report.columns, row, strict=True)) for row in report.rows]


async def eligibility(
    ledger: RunningLedger, as_of: date, min_amount_minor: int = 0
) -> dict[str, tuple[Any, ...]]:
    """By restaurant: the reason for which a run would skip it, if any, and what it would pay."""
    report = await payout_eligibility(
        ledger.engine,
        currency="PEN",
        as_of=as_of,
        settlement_timezone="UTC",
        min_amount_minor=min_amount_minor,
    )
    rows = rows_of(report)
    return {row["restaurant_id"]: (row["skip_reason"], int(row["pays_minor"])) for row in rows}


async def test_balances_are_those_the_service_returns(ledger: RunningLedger) -> None:
    """Q1: a row for every restaurant, equal to GetBalance.

    Zeros for one without an account in the currency.
    """
    await ledger.ingest(
        event_message(restaurant_id="res_a", amount_minor=10_000, fee_minor=300),
        event_message(
            restaurant_id="res_a",
            amount_minor=4_000,
            fee_minor=200,
            occurred_at=NOW - timedelta(days=1),
        ),
        event_message(DISPUTE, restaurant_id="res_a", amount_minor=2_000, fee_minor=150),
        event_message(REFUND, restaurant_id="res_red", amount_minor=5),
        event_message(restaurant_id="res_usd", currency="USD"),
    )
    await finished_run(ledger, request_id=unique("run"))
    await ledger.ingest(event_message(restaurant_id="res_a", amount_minor=7))
    rows = await report_of(ledger, "q1_balances", currency="PEN")
    assert [row["restaurant_id"] for row in rows] == ["res_a", "res_red", "res_usd"]
    for row in rows:
        got = await ledger.balance(row["restaurant_id"])
        for kind in ("available_minor", "pending_minor", "reserved_minor", "disputed_minor"):
            assert row[kind] == getattr(got, kind), (row["restaurant_id"], kind)
        last_event_at = got.last_event_at.ToDatetime(UTC) if got.HasField("last_event_at") else None
        assert row["last_event_at"] == last_event_at
    assert [rows[0][kind] for kind in ("available_minor", "pending_minor", "reserved_minor")] == [
        7,
        3_800,
        7_550,
    ]


async def test_top_restaurants_are_those_of_the_week(ledger: RunningLedger) -> None:
    """Q2: figures, ranks and shares as calculated from the events themselves."""
    results = await ledger.ingest(
        *(
            event_message(
                kind,
                restaurant_id=restaurant_id,
                currency=currency,
                amount_minor=amount_minor,
                fee_minor=fee_minor,
                occurred_at=NOW - before,
            )
            for restaurant_id, currency, kind, amount_minor, fee_minor, before in REVENUE
        )
    )
    assert {result.status for result in results} == {ledger_pb2.INGEST_STATUS_CREATED}
    net: dict[tuple[str, str], int] = {}
    charges: dict[tuple[str, str], int] = {}
    for restaurant_id, currency, kind, amount_minor, fee_minor, before in REVENUE:
        if not timedelta(0) < before <= WEEK or kind == DISPUTE:
            continue
        key = (currency, restaurant_id)
        net[key] = net.get(key, 0) + (amount_minor if kind == CHARGE else -amount_minor) - fee_minor
        charges[key] = charges.get(key, 0) + (kind == CHARGE)
    expected = []
    for currency in ("PEN", "USD"):
        of_currency = {
            restaurant_id: value for (of, restaurant_id), value in net.items() if of == currency
        }
        total = sum(of_currency.values())
        for restaurant_id, value in sorted(
            of_currency.items(), key=lambda item: (-item[1], item[0])
        )[:10]:
            rank = 1 + sum(other > value for other in of_currency.values())
            share = Decimal(100 * value) / total if total > 0 else None
            rounded = None if share is None else share.quantize(Decimal("0.01"), ROUND_HALF_UP)
            expected.append(
                (currency, rank, restaurant_id, charges[currency, restaurant_id], value, rounded)
            )
    rows = await report_of(ledger, "q2_top_restaurants", until_at=NOW)
    got = [
        (
            row["currency"],
            row["rank"],
            row["restaurant_id"],
            row["charges_count"],
            row["net_minor"],
            row["share_percent"],
        )
        for row in rows
    ]
    assert got == expected
    assert [row["rank"] for row in rows if row["restaurant_id"] in ("res_09", "res_tie")] == [5, 5]
    assert all(
        row["net_minor"] == row["charged_minor"] - row["fees_minor"] - row["refunded_minor"]
        for row in rows
    )


async def test_top_restaurants_count_what_accounts_paid(ledger: RunningLedger) -> None:
    """Q2: captures and transfers to a restaurant are charged, what went back is refunded.

    What accounts pay each other is nobody's revenue.
    """
    for account_id in ("acc_a", "acc_b"):
        await open_account(ledger, account_id, None)
    for request in (
        order("pay_1", "acc_a", "", 1_000, fee_minor=30, payee_restaurant_id="res_a"),
        order("pay_2", "acc_a", "", 500, payee_restaurant_id="res_a", capture=MANUAL),
        order("pay_3", "acc_a", "acc_b", 9_000),
    ):
        await ledger.payments.AuthorizePayment(request)
    await ledger.payments.CapturePayment(
        payment_pb2.CapturePaymentRequest(operation_id="op_1", payment_id="pay_2", amount_minor=400)
    )
    for payment_id in ("pay_1", "pay_3"):
        await ledger.payments.RefundPayment(
            payment_pb2.RefundPaymentRequest(
                operation_id=f"op_{payment_id}", payment_id=payment_id, amount_minor=200
            )
        )
    (row,) = await report_of(ledger, "q2_top_restaurants", until_at=NOW + timedelta(hours=1))
    counts = [row[name] for name in ("charges_count", "fees_count", "refunds_count")]
    assert (row["restaurant_id"], counts) == ("res_a", [2, 1, 1])
    sums = [row[name] for name in ("charged_minor", "fees_minor", "refunded_minor", "net_minor")]
    assert sums == [1_400, 30, 200, 1_170]


async def test_accounts_have_the_balances_that_the_service_returns(ledger: RunningLedger) -> None:
    """A row for every account in the currency, as GetAccountBalance; zeros without entries."""
    for account_id, limit_minor in (("acc_bank", None), ("acc_a", 500), ("acc_empty", 0)):
        await open_account(ledger, account_id, limit_minor)
    await open_account(ledger, "acc_usd", currency="USD")
    await ledger.payments.AuthorizePayment(order("pay_1", "acc_bank", "acc_a", 1_000))
    await ledger.payments.AuthorizePayment(order("pay_2", "acc_a", "acc_bank", 1_200))
    await ledger.payments.AuthorizePayment(order("pay_3", "acc_a", "acc_bank", 40, capture=MANUAL))
    rows = await report_of(ledger, "account_balances", currency="PEN")
    assert [tuple(row.values()) for row in rows] == [
        ("acc_a", "", "OPEN", -240, 40, 500),
        ("acc_bank", "", "OPEN", 200, 0, None),
        ("acc_empty", "", "OPEN", 0, 0, 0),
    ]
    for row in rows:
        got = await ledger.accounts.GetAccountBalance(
            account_pb2.GetAccountBalanceRequest(account_id=row["account_id"])
        )
        assert (row["available_minor"], row["held_minor"]) == (got.available_minor, got.held_minor)


def debt_of(rows: list[tuple[Any, ...]]) -> dict[str, Any] | None:
    """The debt that movements of one restaurant's payable lead to: instant, type, amount and id.

    The rows are type, signed amount, instant of recording, event. None without a debt.
    """
    steps: dict[datetime, list[tuple[int, str, str]]] = {}
    for entry_type, signed_minor, recorded_at, event_id in rows:
        steps.setdefault(recorded_at, []).append((signed_minor, entry_type, event_id))
    balance_minor, since = 0, None
    for recorded_at in sorted(steps):
        balance_minor += sum(signed_minor for signed_minor, _, _ in steps[recorded_at])
        if balance_minor >= 0:
            since = None
        elif since is None:
            since = recorded_at
    if since is None:
        return None
    _, entry_type, event_id = min(steps[since])
    taken = sum(
        signed_minor
        for recorded_at, found in steps.items()
        for signed_minor, each, _ in found
        if recorded_at >= since and each == entry_type
    )
    return {
        "since": since,
        "entry_type": entry_type,
        "cause_id": event_id,
        "taken_minor": -taken,
    }


async def test_debts_are_those_of_the_movements(ledger: RunningLedger, seed: int) -> None:
    """Red: since when and by what, as followed movement by movement, for random restaurants.

    What is pending pays for a debt as well.
    """
    chosen = random.Random(seed)
    restaurants = [f"res_{number}" for number in range(12)]
    for _ in range(40):
        await ledger.ingest(
            *(
                event_message(
                    chosen.choice((CHARGE, REFUND, REFUND, FEE, DISPUTE)),
                    restaurant_id=chosen.choice(restaurants),
                    amount_minor=chosen.randint(1, 900),
                    # The maturity is 7 days: some are over, some are not.
                    occurred_at=NOW - timedelta(days=chosen.choice((1, 6, 8, 20))),
                )
                for _ in range(3)
            )
        )
    await ledger.ingest(event_message(REFUND, restaurant_id="res_usd", currency="USD"))
    movements = await ledger.query(
        "SELECT a.restaurant_id, m.entry_type, m.signed_minor, m.recorded_at, m.event_id"
        " FROM ledger_movements AS m"
        " JOIN balance_accounts AS a ON a.balance_account_id = m.balance_account_id"
        " WHERE m.ledger_account = 'restaurant_payable' AND a.currency = 'PEN'"
    )
    found = {
        row["restaurant_id"]: row
        for row in await report_of(ledger, "restaurants_in_red", currency="PEN")
    }
    for restaurant_id in restaurants:
        expected = debt_of([tuple(row)[1:] for row in movements if row[0] == restaurant_id])
        row = found.get(restaurant_id)
        assert (row is None) == (expected is None), restaurant_id
        if row is not None and expected is not None:
            assert {name: row[name] for name in expected} == expected
            assert row["days_count"] == 0
            balance = await ledger.balance(restaurant_id)
            assert (row["available_minor"], row["pending_minor"]) == (
                balance.available_minor,
                balance.pending_minor,
            )
    assert found, "no restaurant is in the red: the seed says nothing"
    assert "res_usd" not in found


async def test_calls_are_those_of_the_call_log(ledger: RunningLedger) -> None:
    """Those that name an id or a method, in their period, latest first."""
    for number, method, what in (
        (1, "RunPayouts", '{"currency": "PEN", "payout_run_id": "run_1"}'),
        (2, "PutRestaurant", '{"restaurant_id": "res_1"}'),
        (3, "RunPayouts", '{"currency": "PEN"}'),
    ):
        await execute_alone(
            ledger.database.migration_url,
            "INSERT INTO audit_log (audit_id, identity, credential, method, request_id, peer, what,"
            f" outcome) VALUES (lpad('{number}', 32, '0')::uuid, 'ana', 'token',"
            f" '/ledger.v1.LedgerService/{method}', 'r{number}', 'ipv4:127.0.0.1', '{what}', 'OK')",
        )

    async def found(about: str = "", method: str = "", **period: datetime) -> list[str]:
        bounds = {"recorded_from": NOW - WEEK, "recorded_before": NOW + WEEK} | period
        rows = await report_of(ledger, "calls", about=about, method=method, **bounds)
        return [row["request_id"] for row in rows]

    assert await found() == ["r3", "r2", "r1"]
    assert await found(about="run_1") == ["r1"]
    assert await found(about="payout_run_id") == []
    assert await found(method="RunPayouts") == ["r3", "r1"]
    assert await found(method="Run_ayouts") == []
    assert await found(about="res_1", method="PutRestaurant") == ["r2"]
    assert await found(recorded_before=NOW - timedelta(days=1)) == []
    assert await found(recorded_from=NOW + timedelta(days=1)) == []


async def test_eligibility_is_what_a_run_then_does(ledger: RunningLedger) -> None:
    """Q3 has the reasons that a dry run counts, and for each restaurant what the run then does."""
    await ledger.ingest(
        *(
            event_message(restaurant_id=f"res_{name}", amount_minor=5_000)
            for name in ("paid", "flight", "latest", "back", "off")
        ),
        event_message(REFUND, restaurant_id="res_red", amount_minor=5),
        event_message(restaurant_id="res_usd", currency="USD"),
    )
    await finished_run(ledger, as_of=days_ago(2))
    for name, kinds in (
        ("paid", SETTLED[:1]),
        ("back", SETTLED),
        ("off", SETTLED[1:]),
        ("latest", SETTLED[:1]),
    ):
        await answer(ledger, f"res_{name}", *kinds)
    await ledger.ingest(
        event_message(restaurant_id="res_latest", amount_minor=5_000),
        event_message(restaurant_id="res_new", amount_minor=2_000, fee_minor=100),
        event_message(
            restaurant_id="res_new", amount_minor=900, occurred_at=NOW - timedelta(days=1)
        ),
        event_message(restaurant_id="res_small", amount_minor=99),
    )
    await ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id="res_off", active=False)
    )
    before = await eligibility(ledger, days_ago(2), 100)
    assert before == {
        "res_back": (None, 5_000),
        "res_flight": ("PAYOUT_IN_FLIGHT", 0),
        "res_latest": ("ALREADY_PAID", 0),
        "res_new": (None, 1_900),
        "res_off": ("INACTIVE", 0),
        "res_paid": ("ALREADY_PAID", 0),
        "res_red": ("NOTHING_AVAILABLE", 0),
        "res_small": ("BELOW_MINIMUM", 0),
    }
    earlier = await eligibility(ledger, days_ago(3), 100)
    assert (earlier["res_paid"], earlier["res_flight"]) == (
        ("CUTOFF_BEFORE_LATEST_PAYOUT", 0),
        ("PAYOUT_IN_FLIGHT", 0),
    )
    with pytest.raises(InvalidRequest, match="future"):
        await eligibility(ledger, days_ago(-2))
    for as_of, rows in ((days_ago(2), before), (days_ago(3), earlier)):
        runs = PostgresPayoutRuns(ledger.engine, settlement_timezone="UTC")
        plan = await run_payouts(runs, PayoutRunKey("PEN", as_of, 100), dry_run=True)
        reasons = [reason for reason, _ in rows.values()]
        assert {reason.value: times for reason, times in plan.skipped.items()} == {
            reason: reasons.count(reason) for reason in reasons if reason
        }
        assert (plan.payouts_created, plan.total_amount_minor) == (
            reasons.count(None),
            sum(pays for _, pays in rows.values()),
        )
    run = await finished_run(ledger, as_of=days_ago(2), min_amount_minor=100)
    items = await ledger.query(
        "SELECT i.restaurant_id, i.skip_reason, COALESCE(p.amount_minor, 0) FROM payout_run_items "
        "AS i"
        " LEFT JOIN payouts AS p ON p.payout_id = i.payout_id WHERE i.payout_run_id = CAST(:run AS "
        "uuid)",
        run=run.payout_run_id,
    )
    assert {row[0]: (row[1], int(row[2])) for row in items} == before


async def test_integrity_has_no_rows_for_books_in_order(ledger: RunningLedger) -> None:
    """Q4, with payouts in every state, and with the bank's answers in either order."""
    await ledger.ingest(
        *(
            event_message(restaurant_id=f"res_{n}", amount_minor=5_000, fee_minor=20)
            for n in range(5)
        )
    )
    await finished_run(ledger, request_id=unique("run"))
    for number, kinds in ((1, SETTLED[:1]), (2, SETTLED[1:]), (3, SETTLED), (4, SETTLED[::-1])):
        await answer(ledger, f"res_{number}", *kinds)
    assert await report_of(ledger, "q4_integrity") == []


async def test_integrity_names_what_is_wrong(ledger: RunningLedger) -> None:
    """Q4: each kind of damage is a row, errors before warnings."""
    await ledger.ingest(
        *(
            event_message(
                event_id=f"evt_{n}", restaurant_id=f"res_{n}", amount_minor=5_000, reference="p"
            )
            for n in range(6)
        ),
        event_message(
            REFUND, event_id="evt_back", restaurant_id="res_0", amount_minor=5_001, reference="p"
        ),
        event_message(ledger_pb2.EVENT_TYPE_DISPUTE_WON, restaurant_id="res_won", amount_minor=3),
    )
    for account_id in ("acc_a", "acc_b"):
        await open_account(ledger, account_id, None)
    for payment_id, mode in (("pay_1", IMMEDIATE), ("pay_2", MANUAL)):
        await ledger.payments.AuthorizePayment(
            order(payment_id, "acc_a", "acc_b", 300, capture=mode)
        )
    await finished_run(ledger, request_id=unique("run"))
    account = "(SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = '{}')"
    payout = f"(SELECT payout_id FROM payouts WHERE balance_account_id = {account})"
    damages = (
        "ALTER TABLE ledger_entries DISABLE TRIGGER ALL",
        "ALTER TABLE processor_events DISABLE TRIGGER ALL",
        "ALTER TABLE payout_items DISABLE TRIGGER ALL",
        "ALTER TABLE ledger_entries ALTER debit_account DROP NOT NULL",
        "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_accounts_check",
        "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_pkey",
        f"DELETE FROM ledger_entries WHERE payout_id = {payout.format('res_1')}",
        "INSERT INTO ledger_entries SELECT e.* FROM ledger_entries AS e WHERE payout_id = "
        f"{payout.format('res_2')}",
        "UPDATE payout_items SET amount_minor = amount_minor - 1 WHERE payout_id = "
        f"{payout.format('res_3')}",
        "DELETE FROM processor_events WHERE event_id = 'evt_4'",
        "UPDATE ledger_entries SET debit_account = NULL WHERE event_id = 'evt_5'",
        "DELETE FROM ledger_entries WHERE event_id = 'evt_3'",
        "UPDATE ledger_entries SET balance_account_id = 999 WHERE event_id = 'evt_1'",
        "UPDATE ledger_entries SET payout_id = gen_random_uuid()"
        f" WHERE payout_id IS NOT NULL AND balance_account_id = {account.format('res_4')}",
        "UPDATE ledger_entries SET amount_minor = 301 WHERE payment_id = 'pay_1' AND position = 2",
        "UPDATE ledger_entries SET amount_minor = 299 WHERE payment_id = 'pay_2'",
    )
    for statement in damages:
        await ledger.query(statement)
    rows = await report_of(ledger, "q4_integrity")
    names = [row["check_name"] for row in rows if row["severity"] == "ERROR"]
    assert set(names) == {
        "debits_equal_credits",
        "entries_have_a_balance_account",
        "entries_have_an_event",
        "events_have_entries",
        "held_is_in_payments",
        "interaccount_nets_to_zero",
        "payout_entries_have_a_payout",
        "payout_items_add_up",
        "payouts_have_one_reserve",
        "reserved_is_in_payouts",
    }
    assert names.count("payouts_have_one_reserve") == 3
    assert [row["severity"] for row in rows] == sorted(row["severity"] for row in rows)
    warnings = {(row["check_name"], row["entity"]) for row in rows if row["severity"] == "WARNING"}
    assert [row["entity"] for row in rows if row["check_name"] == "held_is_in_payments"] == [
        "account acc_a"
    ]
    assert ("refunds_stay_within_their_charge", "reference res_0/PEN/p") in warnings
    assert ("payable_is_not_negative", "account res_0/PEN") in warnings
    assert ("dispute_hold_is_not_negative", "account res_won/PEN") in warnings
    assert all(row["detail"] for row in rows)
    # Where the audit has a check of the same name, it finds the same.
    checks = {check.name for check in load_checks()}
    found = {(row["check_name"], row["severity"]) for row in rows if row["check_name"] in checks}
    audited = (await audit(ledger.engine)).findings
    reported = set(re.findall(r"SELECT '([a-z_]+)', '", load_queries()["q4_integrity"].statement))
    assert found == {
        (finding.check, finding.severity.value) for finding in audited if finding.check in reported
    }


async def test_payout_history_is_what_the_service_returns(ledger: RunningLedger) -> None:
    """Latest first, each payout with its items, and when the bank answered."""
    await ledger.ingest(event_message(restaurant_id="res_a", amount_minor=5_000, fee_minor=20))
    await finished_run(ledger, request_id=unique("run"))
    await answer(ledger, "res_a", *SETTLED)
    await ledger.ingest(event_message(restaurant_id="res_a", amount_minor=700))
    await finished_run(ledger, request_id=unique("run"))
    rows = await report_of(ledger, "payout_history", restaurant_id="res_a")
    got = [
        (row["sequence"], row["state"], row["amount_minor"], row["item_type"], row["item_minor"])
        for row in rows
    ]
    assert got == [
        (2, "CREATED", 5_680, "CHARGE", 700),
        (2, "CREATED", 5_680, "PAYOUT_RETURN", 4_980),
        (1, "RETURNED", 4_980, "CHARGE", 5_000),
        (1, "RETURNED", 4_980, "FEE", -20),
    ]
    assert [(row["paid_at"] is None, row["failed_at"] is None) for row in rows] == [
        (True, True)
    ] * 2 + [(False, False)] * 2
    for row in rows:
        payout = (
            await ledger.stub.GetPayout(
                ledger_pb2.GetPayoutRequest(payout_id=str(row["payout_id"]))
            )
        ).payout
        items = {ledger_pb2.EntryType.Name(item.type): item.amount_minor for item in payout.items}
        assert items[f"ENTRY_TYPE_{row['item_type']}"] == row["item_minor"]
    assert await report_of(ledger, "payout_history", restaurant_id="res_b") == []


async def test_parameters_are_bound(shared_ledger: RunningLedger) -> None:
    """A value is never read as SQL. Other parameters than the query's are refused."""
    assert await report_of(shared_ledger, "payout_history", restaurant_id="' OR true; --") == []
    with pytest.raises(ValueError, match="takes the parameters currency"):
        await run_query(shared_ledger.engine, "q1_balances", {})
    with pytest.raises(ValueError, match=r"takes the parameters \(none\)"):
        await run_query(shared_ledger.engine, "q4_integrity", {"currency": "PEN"})
    with pytest.raises(KeyError):
        await run_query(shared_ledger.engine, "q5_nothing", {})


async def test_rows_are_bounded(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report has at most ROWS_MAX rows, and says whether it is complete."""
    await ledger.ingest(*(event_message(restaurant_id=f"res_{n}") for n in range(4)))
    monkeypatch.setattr(reports, "ROWS_MAX", 3)
    report = await run_query(ledger.engine, "q1_balances", {"currency": "PEN"})
    assert ([row[0] for row in report.rows], report.is_complete) == (
        ["res_0", "res_1", "res_2"],
        False,
    )


async def test_reports_run_as_the_reader(shared_database: Database) -> None:
    """The role ledger_read has all privileges that the reports need."""
    engine = create_engine(shared_database.migration_url, pool_size=1, role="ledger_read")
    try:
        assert (await run_query(engine, "q4_integrity", {})).rows == ()
    finally:
        await engine.dispose()


async def test_unreachable_database_is_unavailable() -> None:
    """No server at the address: DatabaseUnavailable."""
    engine = create_engine("postgresql+asyncpg://ledger_read@127.0.0.1:1/ledger", pool_size=1)
    with pytest.raises(DatabaseUnavailable):
        await run_query(engine, "q4_integrity", {})
    await engine.dispose()


def test_parameters_are_explained() -> None:
    """The head of the file names every parameter with the queries that take it."""
    head = resource("sql", "queries.sql").read_text().partition("-- query: ")[0]
    for query_of_file in load_queries().values():
        assert "BEGIN" not in query_of_file.statement
        for parameter in query_of_file.parameters:
            (line,) = (line for line in head.splitlines() if line.startswith(f"--   {parameter} "))
            assert query_of_file.name in line


async def test_psql_runs_the_file(ledger: RunningLedger) -> None:
    """psql prints the same rows, query after query, with defaults and with every variable given."""
    await ledger.ingest(event_message(restaurant_id="res_a", amount_minor=5_000))
    await finished_run(ledger, request_id=unique("run"))
    url = ledger.database.migration_url
    done = run_file(url, "queries.sql", "-v", "currency=PEN")
    assert (done.returncode, done.stderr) == (0, "")
    balances, verdict = done.stdout.splitlines()
    assert balances.startswith("res_a||0|0|5000|0|")
    assert verdict.startswith("res_a|SKIPPED|PAYOUT_IN_FLIGHT|0|0|")
    given = (
        "as_of=2025-12-31",
        "settlement_timezone=America/Lima",
        "min_amount_minor=1",
        "restaurant_id=res_a",
    )
    variables = [
        part
        for value in ("currency=PEN", "until_at=2025-12-02T00:00:00Z", *given)
        for part in ("-v", value)
    ]
    done = run_file(url, "queries.sql", *variables)
    assert (done.returncode, done.stderr) == (0, "")
    _, top, verdict, history = done.stdout.splitlines()
    assert top == "PEN|1|res_a|1|5000|0|0|0|0|5000|100.00"
    assert verdict.split("|")[5] == "2026-01-01 04:59:59.999999+00"
    assert history.split("|")[9:11] == ["CHARGE", "5000"]


def show(text: str) -> None:
    """Writes a line that `pytest -s` shows."""
    sys.stdout.write(f"{text}\n")


async def explain(
    engine: AsyncEngine, name: str, parameters: dict[str, Value], *before: str
) -> tuple[str, float, set[str]]:
    """The plan of a report as text, its milliseconds, and the indexes that it uses.

    The statements of `before` run first, and are rolled back.
    """
    found = load_queries()[name]
    async with autocommit(engine) as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            for statement in (
                "SET LOCAL enable_seqscan = on",
                "SET LOCAL plan_cache_mode = 'force_custom_plan'",
                "SET LOCAL work_mem = '64MB'",
                "SET LOCAL statement_timeout = '120s'",
                *before,
            ):
                await connection.execute(statement)
            values = [parameters[parameter] for parameter in found.parameters]
            rows = await connection.fetch(
                f"EXPLAIN (ANALYZE, COSTS OFF, BUFFERS OFF) {found.statement}", *values, timeout=120
            )
        finally:
            await transaction.rollback()
    lines = [row[0] for row in rows]
    text = "\n".join(lines)
    indexes = set(re.findall(r"(?:Scan(?: Backward)? using|Index Scan on) ([a-z_]+)", text))
    return text, float(re.findall(r"Execution Time: ([0-9.]+) ms", text)[0]), indexes


@pytest.mark.skipif(
    not os.environ.get("LEDGER_TEST_LARGE"), reason="takes minutes; LEDGER_TEST_LARGE=1 asks for it"
)
async def test_large_books_are_read_by_their_indexes(database: Database) -> None:
    """A million entries and a hundred thousand payouts: the audit is clean, and each report uses
    the indexes meant for it.

    Prints how long everything takes, with the plans: pytest -s.
    """
    engine = create_engine(database.migration_url, pool_size=1)
    url = database.migration_url
    await query(url, REGISTER_MANY)
    runs = PostgresPayoutRuns(engine, settlement_timezone="UTC")
    superuser = create_async_engine(
        url, poolclass=NullPool, connect_args={"server_settings": {"jit": "off"}}
    )
    for number in range(1, ROUNDS + 1):
        async with autocommit(superuser) as connection:
            await connection.execute(BOOK_MANY, number, timeout=120)
        key = PayoutRunKey("PEN", days_ago(1 + 10 * (ROUNDS - number)))
        run = await runs.start(key, uuid_utils.compat.uuid7())
        if run.payout_run_id is None:
            raise RuntimeError("the run was not started")
        while await runs.pay(run.payout_run_id, 500):
            pass
        assert await runs.finish(run.payout_run_id)
        async with autocommit(superuser) as connection:
            await connection.execute(SETTLE_MANY, timeout=120)
            await connection.execute("ANALYZE")
    for statement in ("processor_events", "ledger_entries", "payouts", "payout_items"):
        (counted,) = await query(url, f"SELECT count(*) FROM {statement}")
        show(f"{statement}: {counted[0]} rows")
    await seal_everything(url, timeout_seconds=SEAL_TIMEOUT_SECONDS)
    for label, auditor in (
        ("as a session of the service", engine),
        ("as a superuser's session", superuser),
    ):
        began = time.monotonic()
        report = await audit(auditor)
        show(f"audit {label}: {time.monotonic() - began:.1f} s")
        assert report.findings == ()
    for name, parameters, expected in PLANS:
        began = time.monotonic()
        rows = len((await run_query(engine, name, parameters)).rows)
        seconds = time.monotonic() - began
        text, milliseconds, indexes = await explain(superuser, name, parameters)
        show(f"\n{name}: {rows} rows in {seconds:.2f} s; explained {milliseconds:.0f} ms\n{text}")
        assert expected <= indexes, (name, expected - indexes)
    for index in (
        "USING brin (recorded_at) WITH (pages_per_range = 32)",
        "(recorded_at)",
        "(occurred_at)",
    ):
        create = f"CREATE INDEX ledger_entries_trial_idx ON ledger_entries {index}"
        text, milliseconds, _ = await explain(
            superuser, "q2_top_restaurants", {"until_at": NOW}, create
        )
        show(f"\nq2_top_restaurants with {index}: {milliseconds:.0f} ms\n{text}")
    await engine.dispose()
    await superuser.dispose()
