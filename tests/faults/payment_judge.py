"""Compares the payments in the books with the payers' records."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator

from google.protobuf.message import Message
from support.paying import SELECT_UNBALANCED
from support.running import RunningLedger
from support.waiting import until

from faults.journal import Journal, PaymentCall, Reply
from faults.payers import ACCOUNTS, answer_of
from ledger.v1 import account_pb2, payment_pb2

EXPIRED_SECONDS = 60.0
# How many payments are asked for once more.
ASKED_AGAIN_MAX = 100

_STORED = """
SELECT p.payment_id, p.transaction_id::text, p.decline_reason, payer.account_id,
       COALESCE(payee.account_id, ''), COALESCE(payee.restaurant_id, ''), p.amount_minor,
       p.fee_minor, p.reference, p.capture
FROM payments AS p
JOIN balance_accounts AS payer ON payer.balance_account_id = p.payer_balance_account_id
JOIN balance_accounts AS payee ON payee.balance_account_id = p.payee_balance_account_id
"""
_STORED_OPERATIONS = """
SELECT operation_id, payment_id, kind, transaction_id::text, decline_reason
FROM payment_operations WHERE operation_id IS NOT NULL
"""
# Payments whose entries are not those of their state: lost, or posted twice.
_WRONG_POSTINGS = """
WITH posted AS (
  SELECT payment_id, array_agg(entry_type) AS types,
         jsonb_object_agg(entry_type, total_minor) AS totals, sum(entries) AS entries
  FROM (
    SELECT payment_id, entry_type, sum(amount_minor) AS total_minor, count(*) AS entries
    FROM ledger_entries WHERE payment_id IS NOT NULL GROUP BY payment_id, entry_type
  ) AS e GROUP BY payment_id
),
expected AS (
  SELECT p.payment_id, t.entry_type, t.total_minor
  FROM payments AS p
  JOIN balance_accounts AS payee ON payee.balance_account_id = p.payee_balance_account_id
  CROSS JOIN LATERAL (VALUES
    ('TRANSFER_OUT', p.amount_minor, p.capture = 'IMMEDIATE'),
    ('TRANSFER_IN', p.amount_minor, p.capture = 'IMMEDIATE'),
    ('PAYMENT_HOLD', p.amount_minor, p.capture = 'MANUAL'),
    ('PAYMENT_CAPTURE', p.captured_minor, p.capture = 'MANUAL'),
    ('PAYMENT', p.captured_minor, p.capture = 'MANUAL'),
    ('PAYMENT_RELEASE', p.amount_minor - p.captured_minor,
     p.capture = 'MANUAL' AND p.state NOT IN ('AUTHORIZED', 'PARTIALLY_CAPTURED')),
    ('REFUND_IN', p.refunded_minor, true),
    ('REFUND_OUT', p.refunded_minor, true),
    ('FEE', p.fee_minor * p.captured_minor / p.amount_minor, payee.restaurant_id IS NOT NULL)
  ) AS t (entry_type, total_minor, is_posted)
  WHERE p.state <> 'DECLINED' AND t.is_posted AND t.total_minor > 0
)
SELECT payment_id, posted.totals::text, e.totals::text
FROM (SELECT payment_id, jsonb_object_agg(entry_type, total_minor) AS totals
      FROM expected GROUP BY payment_id) AS e
FULL JOIN posted USING (payment_id)
WHERE posted.totals IS DISTINCT FROM e.totals
"""
# Accounts that hold something other than what their open payments hold.
_WRONG_HOLDS = """
SELECT a.account_id, h.held_minor, COALESCE(o.open_minor, 0)
FROM balance_accounts AS a
CROSS JOIN LATERAL (
  SELECT COALESCE(sum(signed_minor), 0) AS held_minor FROM ledger_movements AS m
  WHERE m.balance_account_id = a.balance_account_id AND m.ledger_account = 'account_held'
) AS h
LEFT JOIN (
  SELECT payer_balance_account_id AS balance_account_id,
         sum(amount_minor - captured_minor) AS open_minor
  FROM payments WHERE state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED') GROUP BY 1
) AS o USING (balance_account_id)
WHERE a.account_id IS NOT NULL AND h.held_minor <> COALESCE(o.open_minor, 0)
"""
_EXPIRED = """
SELECT payment_id FROM payments
WHERE state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED') AND expires_at <= now()
"""
_SUMS = """
SELECT account_id,
       COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'account_funds'), 0)::bigint,
       COALESCE(sum(signed_minor) FILTER (WHERE ledger_account = 'account_held'), 0)::bigint
FROM ledger_movements JOIN balance_accounts USING (balance_account_id)
WHERE account_id IS NOT NULL GROUP BY account_id
"""
_SHOPS = """
SELECT a.restaurant_id, sum(p.captured_minor - p.refunded_minor
                            - p.fee_minor * p.captured_minor / p.amount_minor)::bigint
FROM payments AS p
JOIN balance_accounts AS a ON a.balance_account_id = p.payee_balance_account_id
WHERE a.restaurant_id IS NOT NULL GROUP BY 1
"""


async def wrong_payments(ledger: RunningLedger, journal: Journal) -> list[str]:
    """What is wrong with the payments; `ledger` is a new server, and no other session writes."""
    found = list(_wrong_answers(journal))
    found += await _lost(ledger, journal)
    found += await _wrong_books(ledger)
    found += await _wrong_balances(ledger)
    found += await _wrong_repeats(ledger, journal)
    return found


def doubled_payments(journal: Journal) -> list[str]:
    """The commands that were answered as new more than once."""
    created = Counter(
        call.command_id for call in journal.payments.calls if call.reply is Reply.CREATED
    )
    return sorted(command_id for command_id, number in created.items() if number > 1)


async def lost_payments(ledger: RunningLedger, journal: Journal) -> list[str]:
    """The commands that were answered and are not stored."""
    stored = {row[0] for row in await ledger.query(_STORED)}
    stored |= {row[0] for row in await ledger.query(_STORED_OPERATIONS)}
    return sorted(journal.payments.answered.keys() - stored)


def _wrong_answers(journal: Journal) -> Iterator[str]:
    """Answers about one command that cannot all be true."""
    calls = defaultdict[str, list[PaymentCall]](list)
    for call in journal.payments.calls:
        calls[call.command_id].append(call)
    for command_id, of_command in calls.items():
        counts = Counter(call.reply for call in of_command)
        if counts[Reply.CREATED] > 1:
            yield f"P3: {command_id} was decided {counts[Reply.CREATED]} times"
        if len({call.answer for call in of_command if call.answer}) > 1:
            yield f"P5: {command_id} was answered in different ways"
        if counts[Reply.DUPLICATE] and not counts[Reply.CREATED] and not counts[Reply.UNKNOWN]:
            yield f"P4: {command_id} is a duplicate without an earlier call"
        accepted = {call.contents for call in of_command if call.answer}
        if len(accepted) > 1:
            yield f"P7: {command_id} was answered with different contents"
        for call in of_command:
            if call.reply is Reply.CONFLICT and call.contents in accepted:
                yield f"P7: {command_id} was a conflict with its own contents"
    for code in {call.code for call in journal.payments.calls} & journal.forbidden_codes:
        yield f"a call of a payment ended with {code.name}"


async def _lost(ledger: RunningLedger, journal: Journal) -> list[str]:
    """What was answered and is not stored so, and what is stored and was never sent."""
    found: list[str] = []
    answered = journal.payments.answered
    for command_id in await lost_payments(ledger, journal):
        found.append(f"P1: {command_id} was answered and is not stored")
    for payment_id, transaction_id, reason, *contents in await ledger.query(_STORED):
        sent = [_contents(order) for order in journal.payments.orders.get(payment_id, ())]
        if tuple(contents) not in sent:
            found.append(f"P2: {payment_id} is stored with contents that no caller sent")
        if payment_id in answered:
            payment = payment_pb2.AuthorizePaymentResponse.FromString(
                answered[payment_id].answer
            ).payment
            if (transaction_id if reason is None else "") != payment.transaction_id:
                found.append(f"P1: {payment_id} was answered with another transaction id")
    for operation_id, payment_id, kind, transaction_id, reason in await ledger.query(
        _STORED_OPERATIONS
    ):
        request = journal.payments.operations.get(operation_id)
        if request is None or _kind_of(request) != (kind, payment_id):
            found.append(f"P2: {operation_id} is stored and no caller sent it")
        if operation_id in answered:
            # Every response of an operation has the same fields.
            operation = payment_pb2.CapturePaymentResponse.FromString(
                answered[operation_id].answer
            ).operation
            if (transaction_id if reason is None else "") != operation.transaction_id:
                found.append(f"P1: {operation_id} was answered with another transaction id")
    return found


async def _wrong_books(ledger: RunningLedger) -> list[str]:
    """Entries, sums and holds that do not agree with the payments."""

    async def released() -> bool:
        return not await ledger.query(_EXPIRED)

    found: list[str] = []
    try:
        await until(released, EXPIRED_SECONDS)
    except TimeoutError:
        found += [
            f"P6: {row[0]} has expired and holds money" for row in await ledger.query(_EXPIRED)
        ]
    found += [
        f"P3: {payment_id} has the entries {posted} instead of {expected}"
        for payment_id, posted, expected in await ledger.query(_WRONG_POSTINGS)
    ]
    found += [
        f"P6: {account_id} holds {held_minor} for payments of {open_minor}"
        for account_id, held_minor, open_minor in await ledger.query(_WRONG_HOLDS)
    ]
    found += [
        f"P8: the two sides of {transaction_id} differ by {rest_minor}"
        for transaction_id, rest_minor in await ledger.query(SELECT_UNBALANCED)
    ]
    return found


async def _wrong_balances(ledger: RunningLedger) -> list[str]:
    """Balances of accounts and of the restaurants that they paid."""
    found: list[str] = []
    for account_id, funds_minor, held_minor in await ledger.query(_SUMS):
        balance = await ledger.accounts.GetAccountBalance(
            account_pb2.GetAccountBalanceRequest(account_id=account_id)
        )
        if (balance.available_minor, balance.held_minor) != (funds_minor, held_minor):
            found.append(
                f"P8: {account_id} has {balance.available_minor} and holds {balance.held_minor};"
                f" expected {funds_minor} and {held_minor}"
            )
        if account_id in ACCOUNTS and funds_minor < 0:
            found.append(f"P9: {account_id} has spent {-funds_minor} more than it had")
    for restaurant_id, owed_minor in await ledger.query(_SHOPS):
        owed = await ledger.balance(restaurant_id, "PEN")
        if owed.available_minor + owed.pending_minor != owed_minor:
            found.append(
                f"P8: {restaurant_id} is owed {owed.available_minor + owed.pending_minor};"
                f" expected {owed_minor}"
            )
    return found


async def _wrong_repeats(ledger: RunningLedger, journal: Journal) -> list[str]:
    """Payments that are answered in another way when they are asked for once more."""
    answered = journal.payments.answered
    # The newest, and only those of which the contents that were accepted are known.
    asked = [
        (call, payment_pb2.AuthorizePaymentRequest.FromString(call.contents))
        for payment_id, call in answered.items()
        if payment_id in journal.payments.orders
    ][-ASKED_AGAIN_MAX:]
    responses = await asyncio.gather(
        *(ledger.payments.AuthorizePayment(request) for _, request in asked)
    )
    return [
        f"P5: {call.command_id} is answered in another way than before"
        for (call, _), response in zip(asked, responses, strict=True)
        if response.status != payment_pb2.PAYMENT_STATUS_DUPLICATE
        or answer_of(response) != call.answer
    ]


def _contents(order: payment_pb2.AuthorizePaymentRequest) -> tuple[object, ...]:
    """What is stored of an order, in the columns of _STORED."""
    return (
        order.payer_account_id,
        order.payee_account_id,
        order.payee_restaurant_id,
        order.amount_minor,
        order.fee_minor,
        order.reference,
        payment_pb2.CaptureMode.Name(order.capture).removeprefix("CAPTURE_MODE_"),
    )


def _kind_of(request: Message) -> tuple[str, str]:
    """The kind of an operation and its payment."""
    kind = type(request).__name__.removesuffix("PaymentRequest").upper()
    payment_id: str = getattr(request, "payment_id")  # noqa: B009
    return kind, payment_id
