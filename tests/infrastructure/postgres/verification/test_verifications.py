"""Verifications: what each builds on, and what is stored of it."""

import re

import pytest
from support.events import event_message
from support.running import RunningLedger, query
from support.seals import seal_everything

from ledger.domain.audit import AuditReport, VerificationReport
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import READER_ROLE, create_engine
from ledger.infrastructure.postgres.verification import verifications
from ledger.infrastructure.postgres.verification.audit import Scope, load_checks, make_checks
from ledger.infrastructure.postgres.verification.verifications import (
    newest_verifications,
    verify_books,
)
from ledger.v1 import ledger_pb2

CHECKS_OF_NEW = tuple(check.name for check in load_checks() if check.scope is not Scope.ALL)


async def book(ledger: RunningLedger, *event_ids: str) -> None:
    """Books events and seals them."""
    await ledger.ingest(*(event_message(event_id=event_id) for event_id in event_ids))
    await seal_everything(ledger.database.url)


async def unguarded(ledger: RunningLedger, sql: str) -> None:
    """Changes a table past its trigger, which is on again afterwards."""
    found = re.match(r"(?:UPDATE|DELETE FROM) (\w+)", sql)
    assert found is not None
    trigger = f"TRIGGER {found[1]}_deny_change"
    for statement in (
        f"ALTER TABLE {found[1]} DISABLE {trigger}",
        sql,
        f"ALTER TABLE {found[1]} ENABLE ALWAYS {trigger}",
    ):
        await query(ledger.database.migration_url, statement)


def found_by(report: VerificationReport) -> set[tuple[str, str]]:
    return {(finding.check, finding.entity) for finding in report.audit.errors}


async def test_verification_builds_on_the_one_before(ledger: RunningLedger) -> None:
    """The first checks whole books, the next what is new since; each is stored with its seal."""
    await book(ledger, "evt_1")
    first = await verify_books(ledger.engine)
    assert (first.earlier, first.whole_because) == ((), "no verification is stored")
    await book(ledger, "evt_2")
    second = await verify_books(ledger.engine)
    assert second.earlier == (first.stored,)
    assert second.audit.checks == CHECKS_OF_NEW
    assert second.stored is not None
    assert first.stored is not None
    assert (second.stored.number, second.stored.whole_number) == (2, 1)
    assert second.stored.since_txid == first.stored.position_txid
    assert second.stored.position_txid > first.stored.position_txid
    assert await newest_verifications(ledger.engine, 5) == [second.stored, first.stored]
    ((sequence, hash_),) = await query(
        ledger.database.migration_url,
        "SELECT sequence, hash FROM ledger_seals ORDER BY sequence DESC LIMIT 1",
    )
    assert (second.stored.seal_sequence, second.stored.seal_hash) == (sequence, hash_)
    assert (await verify_books(ledger.engine, whole=True)).whole_because == "--all was given"


async def test_damage_to_new_rows_is_found_and_not_built_upon(ledger: RunningLedger) -> None:
    """After an error each verification checks whole books, until one finds no error."""
    await book(ledger, "evt_old")
    await verify_books(ledger.engine)
    await book(ledger, "evt_new")
    damage = "UPDATE ledger_entries SET amount_minor = amount_minor {} 1 WHERE event_id = 'evt_new'"
    await unguarded(ledger, damage.format("+"))
    broken = await verify_books(ledger.engine)
    assert broken.earlier != ()
    assert found_by(broken) == {("entries_follow_posting_rules", "event evt_new")}
    again = await verify_books(ledger.engine)
    assert again.whole_because == "verification 2 found errors"
    assert found_by(again) == found_by(broken)
    await unguarded(ledger, damage.format("-"))
    mended = await verify_books(ledger.engine)
    assert (mended.whole_because, mended.audit.errors) == ("verification 3 found errors", ())
    assert (await verify_books(ledger.engine)).earlier == (mended.stored,)


async def test_damage_to_old_rows_is_found_by_whole_books_alone(ledger: RunningLedger) -> None:
    """What is new is checked, the seals and whole books cover what is old."""
    await book(ledger, "evt_old")
    await verify_books(ledger.engine)
    await unguarded(
        ledger, "UPDATE processor_events SET reference = 'x' WHERE event_id = 'evt_old'"
    )
    assert (await verify_books(ledger.engine)).audit.errors == ()
    whole = await verify_books(ledger.engine, whole=True)
    assert found_by(whole) == {("fingerprints_match_their_events", "event evt_old")}


async def test_state_of_an_old_row_that_was_written_since_is_checked(
    ledger: RunningLedger,
) -> None:
    """A row that changes its state says when it was written: it is checked, however old it is."""
    await ledger.query(
        "INSERT INTO accounts (account_id, currency, opened_with) VALUES ('acc_a', 'PEN', '{}')"
    )
    await ledger.query(
        "INSERT INTO balance_accounts (account_id, currency) VALUES ('acc_a', 'PEN')"
    )
    await book(ledger, "evt_old")
    await verify_books(ledger.engine)
    await query(
        ledger.database.migration_url,
        "INSERT INTO ledger_entries (balance_account_id, recorded_txid, transaction_id, position,"
        " entry_type, debit_account, credit_account, amount_minor, payment_id)"
        " SELECT balance_account_id, '9', gen_random_uuid(), 1, 'TRANSFER_IN', 'interaccount',"
        " 'account_funds', 5, 'pay_x' FROM balance_accounts WHERE account_id = 'acc_a'",
    )
    assert (await verify_books(ledger.engine)).audit.errors == ()
    await ledger.query("UPDATE accounts SET state = 'CLOSED' WHERE account_id = 'acc_a'")
    report = await verify_books(ledger.engine)
    assert report.earlier != ()
    assert ("closed_accounts_are_empty", "account acc_a") in found_by(report)


async def test_warnings_are_carried(ledger: RunningLedger) -> None:
    """A verification of what is new says which verifications before it found warnings."""
    await ledger.ingest(
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_red", reference="pay_1"
        )
    )
    await seal_everything(ledger.database.url)
    first = await verify_books(ledger.engine)
    assert first.stored is not None
    assert first.stored.warnings_count == len(first.audit.warnings) == 2
    await book(ledger, "evt_1")
    await verify_books(ledger.engine)
    third = await verify_books(ledger.engine)
    assert [each.warnings_count for each in third.earlier] == [2, 0]


async def test_unsealed_books_are_checked_whole(ledger: RunningLedger) -> None:
    """Without a seal nothing says that the rows stay what they were."""
    await ledger.ingest(event_message())
    first = await verify_books(ledger.engine)
    assert first.stored is not None
    assert first.stored.position_txid == 0
    assert (await verify_books(ledger.engine)).whole_because == (
        "nothing was sealed at verification 1"
    )


async def test_other_checks_build_on_nothing(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of the checks has not read the old rows."""
    await book(ledger, "evt_1")
    await verify_books(ledger.engine)
    monkeypatch.setattr(verifications, "checks_digest", lambda: bytes(32))
    assert (await verify_books(ledger.engine)).whole_because == (
        "the checks are not those of verification 1"
    )


@pytest.mark.parametrize(
    ("damage", "because"),
    [
        ("DELETE FROM ledger_seals", "the chain no longer has the seal of verification 1"),
        (
            "UPDATE ledger_seals SET hash = sha256('')",
            "the chain no longer has the seal of verification 1",
        ),
        (
            "UPDATE ledger_stays SET entries_file = 'base/1/1'",
            "the books came from elsewhere since verification 1",
        ),
        (
            "UPDATE ledger_verifications SET position_txid = -1600000000",
            "verification 1 is too many transactions ago",
        ),
    ],
)
async def test_positions_hold_in_their_place_alone(
    ledger: RunningLedger, damage: str, because: str
) -> None:
    """No verification builds on a position whose seal is gone or whose stay has ended."""
    await book(ledger, "evt_1")
    await verify_books(ledger.engine)
    await query(
        ledger.database.migration_url,
        "ALTER TABLE ledger_verifications DROP CONSTRAINT ledger_verifications_txids_check",
    )
    await unguarded(ledger, damage)
    assert (await verify_books(ledger.engine)).whole_because == because


async def test_reader_verifies_and_stores_nothing(ledger: RunningLedger) -> None:
    """A role that only reads builds on what is stored, and the report says that it was not."""
    await book(ledger, "evt_1")
    await verify_books(ledger.engine)
    reader = create_engine(ledger.database.migration_url, pool_size=1, role=READER_ROLE)
    try:
        report = await verify_books(reader)
    finally:
        await reader.dispose()
    assert report.stored is None
    assert report.not_stored_because == "the role may not INSERT into ledger_verifications"
    assert len(report.earlier) == 1
    assert len(await newest_verifications(ledger.engine, 5)) == 1


async def test_clean_verification_yields_to_one_stored_meanwhile(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one may have found errors: nothing clean comes after it without knowing."""
    await book(ledger, "evt_1")

    async def slow(connection: Connection, position: int | None) -> AuditReport:
        monkeypatch.undo()
        await verify_books(ledger.engine)
        return await make_checks(connection, position)

    monkeypatch.setattr(verifications, "make_checks", slow)
    report = await verify_books(ledger.engine)
    assert report.not_stored_because == "another verification was stored at the same time"
    assert len(await newest_verifications(ledger.engine, 5)) == 1
