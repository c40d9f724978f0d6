"""The judge finds each kind of false reply, loss and doubling that a test plants."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import grpc
import pytest
from support.events import event_message
from support.running import RunningLedger, execute_alone, query
from support.seals import seal_everything

from faults import judge as judge_module
from faults.callers import Caller
from faults.journal import CHARGES_PER_ACCOUNT, Call, Contents, DigitAccounts, Journal, Reply
from faults.judge import judge
from faults.load import Load, Mix

_FORGED_ENTRY = """
INSERT INTO ledger_entries
  (balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
   amount_minor, occurred_at, event_id)
SELECT balance_account_id, gen_random_uuid(), 1, entry_type, debit_account, credit_account,
       amount_minor, occurred_at, event_id
FROM ledger_entries WHERE event_id = 'evt_a' AND entry_type = 'CHARGE'
"""


async def evidence(ledger: RunningLedger) -> Journal:
    """Three events, one of them sent twice, and a conflict."""
    journal = Journal()
    caller = Caller(ledger.address, journal)
    for name in ("evt_a", "evt_b", "evt_c"):
        await caller.send(event_message(event_id=name, fee_minor=3))
    assert (
        await caller.send(event_message(event_id="evt_a", fee_minor=3))
    ).reply is Reply.DUPLICATE
    assert (await caller.send(event_message(event_id="evt_b", fee_minor=4))).reply is Reply.CONFLICT
    await caller.close()
    return journal


def call_of(journal: Journal, event_id: str) -> Call:
    return next(call for call in journal.calls if call.event_id == event_id)


async def test_honest_books_pass(ledger: RunningLedger) -> None:
    """The judge finds nothing where nothing was planted."""
    verdict = await judge(ledger.database, await evidence(ledger))
    assert verdict.violations == ()
    assert (verdict.calls, verdict.acked, verdict.lost, verdict.doubled) == (5, 3, 0, 0)


async def test_event_that_is_booked_between_two_queries_has_its_entries(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may book between two queries of the judge: an event never lacks its entries."""
    journal = Journal()
    caller = Caller(ledger.address, journal)

    async def query_and_book(url: str, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        rows = await query(url, statement, **parameters)
        await caller.send(event_message(fee_minor=3))
        return rows

    await caller.send(event_message(fee_minor=3))
    monkeypatch.setattr(judge_module, "query", query_and_book)
    stored = await judge_module.stored_events(ledger.database)
    await caller.close()
    assert stored
    assert {(event.entries, event.transactions) for event in stored.values()} == {(2, 1)}


async def change_what_is_sealed(ledger: RunningLedger, journal: Journal) -> None:
    await seal_everything(ledger.database.url)
    await execute_alone(
        ledger.database.migration_url, "ALTER TABLE processor_events DISABLE TRIGGER USER"
    )
    await execute_alone(
        ledger.database.migration_url, 'UPDATE processor_events SET metadata = \'{"k": "v"}\''
    )


async def lose(ledger: RunningLedger, journal: Journal) -> None:
    journal.intend(event_message(event_id="evt_lost"))
    journal.record(replace(call_of(journal, "evt_a"), event_id="evt_lost"))


async def record_created_twice(ledger: RunningLedger, journal: Journal) -> None:
    journal.record(call_of(journal, "evt_a"))


async def post_twice(ledger: RunningLedger, journal: Journal) -> None:
    await ledger.query(_FORGED_ENTRY)


async def store_what_no_caller_sent(ledger: RunningLedger, journal: Journal) -> None:
    await ledger.ingest(event_message(event_id="evt_forged"))


async def store_other_contents(ledger: RunningLedger, journal: Journal) -> None:
    journal.intents["evt_c"] = {Contents.of(event_message(event_id="evt_c", amount_minor=1))}


async def record_duplicate_of_nothing(ledger: RunningLedger, journal: Journal) -> None:
    created = call_of(journal, "evt_c")
    journal.calls[journal.calls.index(created)] = replace(created, reply=Reply.DUPLICATE)


async def record_refusal_of_stored(ledger: RunningLedger, journal: Journal) -> None:
    created = call_of(journal, "evt_c")
    journal.calls[journal.calls.index(created)] = replace(created, reply=Reply.NOT_NOW)


async def record_conflict_with_itself(ledger: RunningLedger, journal: Journal) -> None:
    journal.record(replace(call_of(journal, "evt_a"), reply=Reply.CONFLICT))


async def record_other_contents(ledger: RunningLedger, journal: Journal) -> None:
    event = event_message(event_id="evt_a", amount_minor=1)
    journal.intend(event)
    journal.record(
        replace(call_of(journal, "evt_a"), reply=Reply.DUPLICATE, contents=Contents.of(event))
    )


async def record_another_transaction(ledger: RunningLedger, journal: Journal) -> None:
    journal.record(
        replace(call_of(journal, "evt_a"), reply=Reply.DUPLICATE, transaction_id="another")
    )


async def record_internal(ledger: RunningLedger, journal: Journal) -> None:
    journal.record(
        replace(call_of(journal, "evt_a"), reply=Reply.UNKNOWN, code=grpc.StatusCode.INTERNAL)
    )


# What is planted, and words of what the judge must find.
PLANTED: dict[str, tuple[Callable[[RunningLedger, Journal], Awaitable[None]], list[str]]] = {
    "lost": (lose, ["H1: evt_lost was acknowledged and is not stored"]),
    "created twice": (record_created_twice, ["H3: evt_a"]),
    "posted twice": (post_twice, ["H3: evt_a", "H6: ('res_001', 'PEN')", "audit: "]),
    "no caller sent it": (store_what_no_caller_sent, ["H2: evt_forged"]),
    "other contents": (store_other_contents, ["H2: evt_c"]),
    "duplicate of nothing": (record_duplicate_of_nothing, ["H4: evt_c is a duplicate"]),
    "refused and stored": (record_refusal_of_stored, ["H4: evt_c is stored"]),
    "conflict with itself": (record_conflict_with_itself, ["H7: evt_a was a conflict"]),
    "other contents acknowledged": (
        record_other_contents,
        ["H7: evt_a was acknowledged with contents"],
    ),
    "another transaction id": (
        record_another_transaction,
        ["H1: evt_a was acknowledged with another transaction id"],
    ),
    "changed after it was sealed": (
        change_what_is_sealed,
        [f"chain: event evt_{name} was changed" for name in "abc"],
    ),
    "internal": (record_internal, ["a call ended with INTERNAL"]),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_planted_damage_is_found(ledger: RunningLedger, planted: str) -> None:
    """The judge names what was planted."""
    journal = await evidence(ledger)
    plant, expected = PLANTED[planted]
    await plant(ledger, journal)
    verdict = await judge(ledger.database, journal)
    for words in expected:
        assert any(words in violation for violation in verdict.violations), verdict.violations
    assert verdict.lost == (planted == "lost")
    assert verdict.doubled == (planted in ("created twice", "posted twice"))


def test_digits_show_which_charges_a_balance_counts() -> None:
    """A balance shows its whole charges; half a one, one twice or an unsent one is an error."""
    digits = DigitAccounts()
    charges = {}
    for number in range(CHARGES_PER_ACCOUNT):
        restaurant_id, amount_minor, fee_minor = digits.next_charge(f"evt_{number}")
        assert restaurant_id == "digits_00000"
        charges[f"evt_{number}"] = (amount_minor, fee_minor)
    assert max(amount_minor for amount_minor, _ in charges.values()) <= 10**12
    some = {"evt_0", "evt_7", "evt_19"}
    balance_minor = sum(
        amount - fee for event_id, (amount, fee) in charges.items() if event_id in some
    )
    assert digits.counted("digits_00000", balance_minor) == some
    assert digits.counted("digits_00000", 0) == set()
    amount_minor, fee_minor = charges["evt_3"]
    for wrong in (amount_minor, -fee_minor, 2 * (amount_minor - fee_minor), 4**CHARGES_PER_ACCOUNT):
        with pytest.raises(ValueError, match="counts"):
            digits.counted("digits_00000", balance_minor + wrong)
    assert digits.next_charge("evt_20")[0] == "digits_00001"


def test_gap_is_measured_while_there_is_a_load() -> None:
    """Acknowledgements outside a load, and the time between two loads, are no gap."""
    journal = Journal(
        ack_instants=[0.0, 10.0, 10.5, 12.0, 30.0, 30.1], load_spans=[(9.0, 13.0), (29.0, 31.0)]
    )
    assert journal.longest_gap_seconds == 1.5
    assert Journal().longest_gap_seconds == 0


async def test_reader_sees_a_missing_acknowledgement(ledger: RunningLedger) -> None:
    """H5: a balance without an event acknowledged before the read is a violation."""
    journal, digits = Journal(), DigitAccounts()
    load = Load([ledger.address], journal, digits, seed="1", mix=Mix(timeout_seconds=30))
    caller = Caller(ledger.address, journal)
    for name in ("evt_sent", "evt_forged"):
        restaurant_id, amount_minor, fee_minor = digits.next_charge(name)
        event = event_message(
            event_id=name,
            restaurant_id=restaurant_id,
            amount_minor=amount_minor,
            fee_minor=fee_minor,
        )
        if name == "evt_sent":
            await caller.send(event)
            await load.read(caller, Random(1))
            assert (journal.reads, journal.violations) == (1, [])
        journal.intend(event)
        journal.acknowledged_at[name] = time.monotonic()
    await load.read(caller, Random(1))
    assert [violation[:14] for violation in journal.violations] == ["H5: evt_forged"]
    await caller.close()
