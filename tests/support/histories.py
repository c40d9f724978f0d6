"""Random entries over months, of every posting rule, written past the service: rows and no more."""

import random
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ledger.bootstrap.database import Database
from ledger.domain.posting_rules import (
    EVENT_POSTING_RULES,
    PAYMENT_POSTING_RULES,
    PAYOUT_POSTING_RULES,
    PostingRule,
)
from support.books import engine_on, superuser
from support.paying import open_accounts

# Ids with every sign that an id may have, some of which differ only in what a name must escape.
RESTAURANTS = ("res_1", "res-1", "res.1", "res:1", "Res_1", "_res--1", "1", "-u", "U", "u")
ACCOUNTS = {"acc_1": "PEN", "acc-h1": "JPY", "A": "KWD", "a": "CLF", ":x": "PEN"}
# Of no, two, three and four decimals.
CURRENCIES = ("PEN", "JPY", "KWD", "CLF", "USD")

WRITE_ENTRIES = """
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type, debit_account,
  credit_account, amount_minor, occurred_at, recorded_at, event_id, payout_id, payment_id)
SELECT a.balance_account_id, e.transaction_id, e.position, e.entry_type, e.debit_account,
  e.credit_account, e.amount_minor, CASE WHEN e.event_id IS NULL THEN NULL ELSE e.recorded_at END,
  e.recorded_at, e.event_id, e.payout_id, e.payment_id
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::smallint[], $6::text[], $7::text[],
  $8::text[], $9::bigint[], $10::timestamptz[], $11::text[], $12::uuid[], $13::text[])
  AS e (restaurant_id, account_id, currency, transaction_id, position, entry_type, debit_account,
    credit_account, amount_minor, recorded_at, event_id, payout_id, payment_id)
JOIN balance_accounts AS a ON a.currency = e.currency
  AND a.restaurant_id IS NOT DISTINCT FROM e.restaurant_id
  AND a.account_id IS NOT DISTINCT FROM e.account_id
"""
OPEN_RESTAURANTS = """
WITH platform AS (
  INSERT INTO balance_accounts (currency) SELECT unnest($2::text[])
),
registered AS (
  INSERT INTO restaurants (restaurant_id, name)
  SELECT r, 'Name of "' || r || '", 100 % \\ ; [2020-01-01] ñ' FROM unnest($1::text[]) AS r
  RETURNING restaurant_id
)
INSERT INTO balance_accounts (restaurant_id, currency)
SELECT restaurant_id, c FROM registered CROSS JOIN unnest($2::text[]) AS c
"""


@dataclass(frozen=True, slots=True)
class WrittenEntry:
    """An entry of a history: of a restaurant, an account, or the platform."""

    restaurant_id: str | None
    account_id: str | None
    currency: str
    transaction_id: uuid.UUID
    position: int
    rule: PostingRule
    amount_minor: int
    recorded_at: datetime
    event_id: str | None
    payout_id: uuid.UUID | None
    payment_id: str | None


# A restaurant or None, an account or None, a currency and a ledger account.
Place = tuple[str | None, str | None, str, str]


def rules() -> list[tuple[PostingRule, bool]]:
    """Every posting rule, and whether it is one of payments."""
    of_payments: list[PostingRule] = []
    for step in PAYMENT_POSTING_RULES.values():
        of_payments += [step.payer, *step.payee_account, *step.payee_restaurant]
    others = [rule for rules in EVENT_POSTING_RULES.values() for rule in rules]
    others += [*PAYOUT_POSTING_RULES.values()]
    return [(rule, True) for rule in of_payments] + [(rule, False) for rule in others]


def history(
    chance: random.Random, count: int, first_at: datetime, length: timedelta
) -> list[WrittenEntry]:
    """`count` transactions at random instants, the first and the last instant included."""
    instants = [first_at, first_at + length - timedelta(microseconds=1)]
    while len(instants) < count:
        instants.append(first_at + chance.random() * length)
    return [
        entry for number, at in enumerate(instants) for entry in _transaction(chance, number, at)
    ]


def _transaction(chance: random.Random, number: int, at: datetime) -> Iterator[WrittenEntry]:
    transaction_id = uuid.UUID(int=chance.getrandbits(128), version=4)
    chosen = chance.choices(rules(), k=chance.choice((1, 1, 2, 3)))
    for position, (rule, is_payment) in enumerate(chosen, start=1):
        of_account = any(side.value.startswith("account_") for side in (rule.debit, rule.credit))
        account_id = chance.choice(sorted(ACCOUNTS)) if of_account else None
        yield WrittenEntry(
            # Without a restaurant it is in the platform's books.
            restaurant_id=None if of_account else chance.choice((None, *RESTAURANTS)),
            account_id=account_id,
            currency=ACCOUNTS[account_id] if account_id else chance.choice(CURRENCIES),
            transaction_id=transaction_id,
            position=position,
            rule=rule,
            amount_minor=chance.choice((1, chance.randint(1, 10**4), chance.randint(1, 10**12))),
            recorded_at=at,
            event_id=(
                None
                if is_payment or rule.entry_type == "PAYOUT_RESERVE"
                else f"evt:{number}-{position}"
            ),
            payout_id=(
                uuid.UUID(int=number + 1) if rule.entry_type.startswith("PAYOUT_") else None
            ),
            payment_id=f"pay.{number}" if is_payment else None,
        )


async def write_history(database: Database, entries: Sequence[WrittenEntry]) -> None:
    """Writes entries to empty books, with the holders that they may have."""
    async with engine_on(database.url) as engine:
        for account_id, currency in ACCOUNTS.items():
            await open_accounts(engine, account_id, currency=currency)
    async with superuser(database) as connection:
        await connection.execute(OPEN_RESTAURANTS, list(RESTAURANTS), list(CURRENCIES))
        columns = zip(
            *(
                (
                    entry.restaurant_id,
                    entry.account_id,
                    entry.currency,
                    entry.transaction_id,
                    entry.position,
                    entry.rule.entry_type.value,
                    entry.rule.debit.value,
                    entry.rule.credit.value,
                    entry.amount_minor,
                    entry.recorded_at,
                    entry.event_id,
                    entry.payout_id,
                    entry.payment_id,
                )
                for entry in entries
            ),
            strict=True,
        )
        await connection.execute(WRITE_ENTRIES, *map(list, columns))


def balances_before(entries: Sequence[WrittenEntry], end_at: datetime) -> Counter[Place]:
    """The debits less the credits of all entries recorded before an instant."""
    sums: Counter[Place] = Counter()
    for entry in entries:
        if entry.recorded_at < end_at:
            holder = (entry.restaurant_id, entry.account_id, entry.currency)
            sums[(*holder, entry.rule.debit.value)] += entry.amount_minor
            sums[(*holder, entry.rule.credit.value)] -= entry.amount_minor
    return sums


def utc(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)
