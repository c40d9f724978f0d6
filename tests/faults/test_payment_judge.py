"""The judge finds each kind of false answer, loss and doubling of payments that a test plants."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import grpc
import pytest
from support.paying import order
from support.running import RunningLedger

from faults.journal import Journal, PaymentCall, Reply
from faults.judge import judge
from faults.payers import ACCOUNTS, BANK, Payer

CALLS = 60
# Entries of a payment once more.
_FORGED = """
INSERT INTO ledger_entries
  (balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
   amount_minor, payment_id)
SELECT balance_account_id, :transaction_id, position, entry_type, debit_account, credit_account,
       amount_minor, payment_id
FROM ledger_entries WHERE payment_id = :payment_id AND entry_type LIKE :entry_types
"""
_FORGED_HOLD = """
INSERT INTO ledger_entries
  (balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
   amount_minor, payment_id)
SELECT balance_account_id, gen_random_uuid(), 1, 'PAYMENT_HOLD', 'account_funds', 'account_held',
       1, :payment_id
FROM balance_accounts WHERE account_id = :account_id
"""
FUNDED = f"fund_{ACCOUNTS[0]}"


async def evidence(ledger: RunningLedger, seed: str = "7") -> Journal:
    """What a payer sends in a short time."""
    journal = Journal()
    payer = Payer(
        [ledger.address],
        journal,
        seed=seed,
        token="",
        is_stopping=lambda: len(journal.payments.calls) >= CALLS,
    )
    await payer.run()
    return journal


def call_of(journal: Journal, command_id: str) -> PaymentCall:
    return next(call for call in journal.payments.calls if call.command_id == command_id)


async def test_honest_payments_pass(ledger: RunningLedger, seed: int) -> None:
    """The judge finds nothing where nothing was planted, whatever the payer sent."""
    journal = await evidence(ledger, str(seed))
    verdict = await judge(ledger.database, journal)
    assert verdict.violations == ()
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.paid == len(journal.payments.answered) > CALLS / 2


async def lose(ledger: RunningLedger, journal: Journal) -> None:
    call = replace(call_of(journal, FUNDED), command_id="pay_lost")
    journal.payments.calls.append(call)


async def record_decided_twice(ledger: RunningLedger, journal: Journal) -> None:
    journal.payments.calls.append(call_of(journal, FUNDED))


async def record_another_answer(ledger: RunningLedger, journal: Journal) -> None:
    other = call_of(journal, f"fund_{ACCOUNTS[1]}").answer
    call = replace(call_of(journal, FUNDED), reply=Reply.DUPLICATE, answer=other)
    journal.payments.calls.append(call)


async def record_answer_that_was_not_stored(ledger: RunningLedger, journal: Journal) -> None:
    other = call_of(journal, f"fund_{ACCOUNTS[1]}").answer
    journal.payments.calls[:] = [
        replace(call, answer=other) if call.command_id == FUNDED and call.answer else call
        for call in journal.payments.calls
    ]


async def pay_what_no_caller_sent(ledger: RunningLedger, journal: Journal) -> None:
    await ledger.payments.AuthorizePayment(order("forged", BANK, ACCOUNTS[0], 1))


async def record_other_contents(ledger: RunningLedger, journal: Journal) -> None:
    journal.payments.orders[FUNDED] = [order(FUNDED, BANK, ACCOUNTS[0], 1)]


async def record_duplicate_of_nothing(ledger: RunningLedger, journal: Journal) -> None:
    calls = [call for call in journal.payments.calls if call.command_id != FUNDED]
    calls.append(replace(call_of(journal, FUNDED), reply=Reply.DUPLICATE))
    journal.payments.calls[:] = calls


async def record_conflict_with_itself(ledger: RunningLedger, journal: Journal) -> None:
    conflict = replace(call_of(journal, FUNDED), reply=Reply.CONFLICT, answer=b"")
    journal.payments.calls.append(conflict)


async def record_internal(ledger: RunningLedger, journal: Journal) -> None:
    call = call_of(journal, FUNDED)
    journal.payments.calls.append(
        replace(call, reply=Reply.UNKNOWN, code=grpc.StatusCode.INTERNAL, answer=b"")
    )


async def post_twice(ledger: RunningLedger, journal: Journal) -> None:
    await post_again(ledger, "TRANSFER_%")


async def post_one_side(ledger: RunningLedger, journal: Journal) -> None:
    await post_again(ledger, "TRANSFER_IN")


async def post_again(ledger: RunningLedger, entry_types: str) -> None:
    await ledger.query(
        f"{_FORGED} RETURNING position",
        transaction_id="01890a5d-ac96-774b-bcce-b302099a8057",
        payment_id=FUNDED,
        entry_types=entry_types,
    )


async def hold_without_a_payment(ledger: RunningLedger, journal: Journal) -> None:
    await ledger.query(
        f"{_FORGED_HOLD} RETURNING position", payment_id=FUNDED, account_id=ACCOUNTS[0]
    )


# What is planted, and words of what the judge must find.
PLANTED: dict[str, tuple[Callable[[RunningLedger, Journal], Awaitable[None]], list[str]]] = {
    "lost": (lose, ["P1: pay_lost was answered and is not stored"]),
    "decided twice": (record_decided_twice, [f"P3: {FUNDED} was decided 2 times"]),
    "another answer": (record_another_answer, [f"P5: {FUNDED} was answered in different ways"]),
    "an answer that was not stored": (
        record_answer_that_was_not_stored,
        [f"P1: {FUNDED} was answered with another transaction id", f"P5: {FUNDED} is answered"],
    ),
    "no caller sent it": (pay_what_no_caller_sent, ["P2: forged"]),
    "other contents": (record_other_contents, [f"P2: {FUNDED}"]),
    "duplicate of nothing": (record_duplicate_of_nothing, [f"P4: {FUNDED} is a duplicate"]),
    "conflict with itself": (record_conflict_with_itself, [f"P7: {FUNDED} was a conflict"]),
    "internal": (record_internal, ["a call of a payment ended with INTERNAL"]),
    "posted twice": (post_twice, [f"P3: {FUNDED} has the entries", "audit: "]),
    "one side posted": (post_one_side, [f"P3: {FUNDED} has the entries", "P8: the two sides"]),
    "a hold without a payment": (hold_without_a_payment, [f"P6: {ACCOUNTS[0]} holds"]),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_planted_damage_to_payments_is_found(ledger: RunningLedger, planted: str) -> None:
    """The judge names what was planted."""
    journal = await evidence(ledger)
    plant, expected = PLANTED[planted]
    await plant(ledger, journal)
    verdict = await judge(ledger.database, journal)
    for words in expected:
        assert any(words in violation for violation in verdict.violations), verdict.violations
    assert verdict.lost == (planted == "lost")
    assert verdict.doubled == (planted == "decided twice")
