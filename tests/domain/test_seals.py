"""Canonical bytes, the chain, and how a tampered row is found."""

import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from ledger.domain.seals import (
    ENTRY_TITLE,
    EVENT_TITLE,
    FIRST_PREVIOUS_HASH,
    OPERATION_TITLE,
    PAYMENT_ENTRY_TITLE,
    PAYMENT_TITLE,
    PLACE_MAX,
    SEALED_ENTRY_FIELDS,
    SEALED_EVENT_FIELDS,
    SEALED_OPERATION_FIELDS,
    SEALED_PAYMENT_ENTRY_FIELDS,
    SEALED_PAYMENT_FIELDS,
    Change,
    Seal,
    SealContents,
    SealedTransaction,
    contents_of,
    link_fault,
    packed,
    row_digest,
    tampered_rows,
    unpacked,
)
from ledger.resources import resource

# The example of docs/seals.md.
EVENT = {
    "event_id": "evt_1",
    "fingerprint": "00" * 31 + "ff",
    "transaction_id": "01a1f8be-b56e-716f-800d-991ee07bd5b0",
    "batch_id": "01a1f8be-b56e-716f-800d-991ee07bd5b1",
    "type": "charge_succeeded",
    "restaurant_id": "res_lima",
    "currency": "PEN",
    "amount_minor": 10_000,
    "fee_minor": 300,
    "occurred_at": 1_764_583_200_000_001,
    "payout_id": None,
    "reference": "",
    "recorded_txid": 812,
    "recorded_at": 1_764_583_201_000_000,
    "metadata": '{"a": "é", "bb": "1\\n2"}',
}
ENTRY = {
    "recorded_txid": 812,
    "transaction_id": "01a1f8be-b56e-716f-800d-991ee07bd5b0",
    "position": 1,
    "balance_account_id": 7,
    "restaurant_id": "res_lima",
    "currency": "PEN",
    "entry_type": "CHARGE",
    "debit_account": "processor_clearing",
    "credit_account": "restaurant_payable",
    "amount_minor": 10_000,
    "available_at": 1_765_188_000_000_001,
    "occurred_at": 1_764_583_200_000_001,
    "recorded_at": 1_764_583_201_000_000,
    "event_id": "evt_1",
    "payout_id": None,
}
# A payment to an account, its entry and its expiry: the second example.
PAYMENT_ENTRY = {
    "recorded_txid": 812,
    "transaction_id": "01a1f8be-b56e-716f-800d-991ee07bd5c0",
    "position": 1,
    "balance_account_id": 8,
    "restaurant_id": None,
    "currency": "PEN",
    "entry_type": "PAYMENT_HOLD",
    "debit_account": "account_funds",
    "credit_account": "account_held",
    "amount_minor": 2500,
    "available_at": None,
    "occurred_at": None,
    "recorded_at": 1_764_583_201_000_000,
    "event_id": None,
    "payout_id": None,
    "account_id": "acc_ana",
    "payment_id": "pay_1",
}
PAYMENT = {
    "payment_id": "pay_1",
    "transaction_id": "01a1f8be-b56e-716f-800d-991ee07bd5c0",
    "batch_id": "01a1f8be-b56e-716f-800d-991ee07bd5c1",
    "payer_balance_account_id": 8,
    "payer_account_id": "acc_ana",
    "payee_balance_account_id": 9,
    "payee_account_id": "acc_ben",
    "payee_restaurant_id": None,
    "currency": "PEN",
    "amount_minor": 2500,
    "fee_minor": 0,
    "capture": "MANUAL",
    "expires_at": 1_764_669_600_000_000,
    "reference": "order 1",
    "decline_reason": None,
    "recorded_txid": 812,
    "recorded_at": 1_764_583_201_000_000,
    "metadata": "{}",
}
OPERATION = {
    "payment_id": "pay_1",
    "sequence": 1,
    "operation_id": None,
    "transaction_id": "01a1f8be-b56e-716f-800d-991ee07bd5c2",
    "batch_id": "01a1f8be-b56e-716f-800d-991ee07bd5c3",
    "kind": "EXPIRE",
    "requested_minor": 0,
    "is_final": 0,
    "amount_minor": 0,
    "released_minor": 2500,
    "decline_reason": None,
    "state": "EXPIRED",
    "captured_minor": 0,
    "refunded_minor": 0,
    "recorded_txid": 815,
    "recorded_at": 1_764_669_600_000_001,
}
PAYMENT_TEXTS = (
    (
        PAYMENT_ENTRY_TITLE,
        SEALED_PAYMENT_ENTRY_FIELDS,
        PAYMENT_ENTRY,
        "ledger-entry/2\n812\n01a1f8be-b56e-716f-800d-991ee07bd5c0\n1\n8\n~\nPEN\nPAYMENT_HOLD\n"
        "account_funds\naccount_held\n2500\n~\n~\n1764583201000000\n~\n~\nacc_ana\npay_1",
    ),
    (
        PAYMENT_TITLE,
        SEALED_PAYMENT_FIELDS,
        PAYMENT,
        "ledger-payment/1\npay_1\n01a1f8be-b56e-716f-800d-991ee07bd5c0\n"
        "01a1f8be-b56e-716f-800d-991ee07bd5c1\n8\nacc_ana\n9\nacc_ben\n~\nPEN\n2500\n0\nMANUAL\n"
        "1764669600000000\norder 1\n~\n812\n1764583201000000\n{}",
    ),
    (
        OPERATION_TITLE,
        SEALED_OPERATION_FIELDS,
        OPERATION,
        "ledger-payment-operation/1\npay_1\n1\n~\n01a1f8be-b56e-716f-800d-991ee07bd5c2\n"
        "01a1f8be-b56e-716f-800d-991ee07bd5c3\nEXPIRE\n0\n0\n0\n2500\n~\nEXPIRED\n0\n0\n815\n"
        "1764669600000001",
    ),
)
SEAL = Seal(
    sequence=1,
    epoch=1,
    is_restored=False,
    system_identifier=7_400_000_000_000_000_001,
    first_txid=0,
    end_txid=813,
    events_count=1,
    entries_count=1,
    contents_hash=bytes(32),
    row_digests=b"",
    sealed_at=datetime(2026, 11, 20, 12, 0, 0, 5, tzinfo=UTC),
    previous_hash=FIRST_PREVIOUS_HASH,
)


def example() -> Seal:
    """The seal over the two rows above."""
    event_texts: Any = [EVENT[name] for name in SEALED_EVENT_FIELDS]
    entry_texts: Any = [ENTRY[name] for name in SEALED_ENTRY_FIELDS]
    event = row_digest(EVENT_TITLE, event_texts)
    entry = row_digest(ENTRY_TITLE, entry_texts)
    transaction = SealedTransaction(
        812, bytes.fromhex("01a1f8beb56e716f800d991ee07bd5b0"), b"\x00\x01", event + entry
    )
    contents = contents_of([transaction])
    seal = replace(SEAL, contents_hash=contents.contents_hash, row_digests=contents.row_digests())
    return replace(seal, hash=seal.computed_hash())


def test_canonical_bytes_never_change() -> None:
    """Every later version, and every other program, must compute the same seal."""
    seal = example()
    event = (
        f"ledger-event/1\nevt_1\n{'00' * 31}ff\n"
        "01a1f8be-b56e-716f-800d-991ee07bd5b0\n01a1f8be-b56e-716f-800d-991ee07bd5b1\n"
        "charge_succeeded\nres_lima\nPEN\n10000\n300\n1764583200000001\n~\n\n812\n"
        "1764583201000000\n"
        '{"a": "é", "bb": "1\\n2"}'
    )
    entry = (
        "ledger-entry/1\n812\n01a1f8be-b56e-716f-800d-991ee07bd5b0\n1\n7\nres_lima\nPEN\n"
        "CHARGE\nprocessor_clearing\n"
        "restaurant_payable\n10000\n1765188000000001\n1764583200000001\n1764583201000000\nevt_1\n~"
    )
    event_digest, entry_digest = (hashlib.sha256(text.encode()).digest() for text in (event, entry))
    assert seal.contents_hash == hashlib.sha256(event_digest + entry_digest).digest()
    assert seal.row_digests == (
        bytes.fromhex("01a1f8beb56e716f800d991ee07bd5b0")
        + b"\x00"
        + event_digest[:6]
        + b"\x81"
        + entry_digest[:6]
    )
    text = (
        f"ledger-seal/1\n1\n1\n0\n7400000000000000001\n0\n813\n1\n1\n{seal.contents_hash.hex()}\n"
        f"{hashlib.sha256(seal.row_digests).hexdigest()}\n1795176000000005\n{'00' * 32}"
    )
    assert seal.hash == hashlib.sha256(text.encode()).digest()


@pytest.mark.parametrize(("title", "fields", "row", "text"), PAYMENT_TEXTS)
def test_canonical_bytes_of_payments_never_change(
    title: str, fields: tuple[str, ...], row: dict[str, Any], text: str
) -> None:
    """Those of a payment, of an operation of it, and of an entry that it posted."""
    assert [*row] == [*fields]
    assert row_digest(title, [row[name] for name in fields]) == sha256(text)


def test_payment_stands_before_its_entries_in_a_seal() -> None:
    """At the place of an event, and `events_count` counts it as one."""
    entry, payment, operation = (sha256(text) for *_, text in PAYMENT_TEXTS)
    contents = contents_of(
        [
            SealedTransaction(812, uuid_bytes(PAYMENT), b"\x00\x01", payment + entry),
            SealedTransaction(815, uuid_bytes(OPERATION), b"\x00", operation),
        ]
    )
    assert (contents.events_count, contents.rows_count) == (2, 3)
    assert contents.row_digests() == (
        uuid_bytes(PAYMENT)
        + b"\x00"
        + payment[:6]
        + b"\x81"
        + entry[:6]
        + uuid_bytes(OPERATION)
        + b"\x80"
        + operation[:6]
    )


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def uuid_bytes(row: dict[str, Any]) -> bytes:
    return UUID(row["transaction_id"]).bytes


def test_page_about_seals_shows_the_hashes_of_the_example() -> None:
    """Those of the seal, of its contents, and the digests of its rows; and of a payment's rows."""
    page = (resource("sql").parent / "docs" / "seals.md").read_text()
    seal = example()
    for shown in (seal.hash.hex(), seal.contents_hash.hex(), seal.row_digests.hex()):
        assert shown in page
    for *_, text in PAYMENT_TEXTS:
        assert f"```\n{text}\n```" in page
        assert sha256(text).hex() in page


def transaction(number: int, *digests: bytes, places: bytes | None = None) -> SealedTransaction:
    """The rows of one transaction id; their places are 0, 1, 2 by default."""
    given = bytes(range(len(digests))) if places is None else places
    return SealedTransaction(
        number, number.to_bytes(16, "big"), given, b"".join(digest * 32 for digest in digests)
    )


SEALED = [transaction(1, b"a", b"b", b"c"), transaction(2, b"d", places=b"\x01")]


def test_unpacked_rows_are_those_that_were_packed() -> None:
    """Each has its transaction, its place and the beginning of its digest."""
    packed = contents_of(SEALED).row_digests()
    rows = [
        (int.from_bytes(row.transaction_id, "big"), row.place, row.short_digest)
        for row in unpacked(packed)
    ]
    assert rows == [(1, 0, b"a" * 6), (1, 1, b"b" * 6), (1, 2, b"c" * 6), (2, 1, b"d" * 6)]
    with pytest.raises(ValueError, match="within a row"):
        list(unpacked(packed[:-1]))


def test_packed_transactions_have_the_same_seal_as_their_rows(seed: int) -> None:
    """With and without transactions that an earlier epoch has sealed."""
    chance = random.Random(seed)

    def rows(txid: int, number: int) -> SealedTransaction:
        places = bytes(sorted(chance.choices(range(PLACE_MAX + 1), k=chance.randrange(1, 5))))
        return SealedTransaction(
            txid, number.to_bytes(16, "big"), places, chance.randbytes(32 * len(places))
        )

    first, second = (
        [rows(7, number) for number in range(20)],
        [rows(8, number) for number in range(20, 23)],
    )
    for sealed_before in (set(), {each.transaction_id for each in (*first[::3], *second)}):
        contents = SealContents()
        for txid, transactions in ((7, first), (8, second)):
            contents.add_packed(packed(txid, transactions).without(sealed_before))
        expected = contents_of(
            [each for each in (*first, *second) if each.transaction_id not in sealed_before]
        )
        assert (contents.events_count, contents.rows_count) == (
            expected.events_count,
            expected.rows_count,
        ), seed
        assert contents.contents_hash == expected.contents_hash, seed
        assert contents.row_digests() == expected.row_digests(), seed


def test_rows_may_be_added_in_portions() -> None:
    """However they are divided, also within a transaction id."""
    whole = contents_of(SEALED)
    for cut in (1, 2):
        contents = SealContents()
        first = SEALED[0]
        contents.add([first._replace(places=first.places[:cut], digests=first.digests[: 32 * cut])])
        contents.add([])
        contents.add(
            [
                first._replace(places=first.places[cut:], digests=first.digests[32 * cut :]),
                SEALED[1],
            ]
        )
        assert (contents.events_count, contents.rows_count) == (1, 4)
        assert (contents.contents_hash, contents.row_digests()) == (
            whole.contents_hash,
            whole.row_digests(),
        )


@pytest.mark.parametrize(
    ("stored", "reported"),
    [
        (SEALED, []),
        ([transaction(1, b"a", b"x", b"c"), SEALED[1]], [(Change.CHANGED, 1, 1)]),
        (
            [transaction(1, b"a", b"c", b"b"), SEALED[1]],
            [(Change.CHANGED, 1, 1), (Change.CHANGED, 1, 2)],
        ),
        ([transaction(1, b"b", b"c", places=b"\x01\x02"), SEALED[1]], [(Change.DELETED, 1, 0)]),
        ([SEALED[0]], [(Change.DELETED, 2, 1)]),
        ([transaction(1, b"a", b"b", b"c", b"e"), SEALED[1]], [(Change.INSERTED, 1, 3)]),
        (
            [transaction(1, b"a", b"b", b"b", b"c", places=b"\x00\x01\x01\x02"), SEALED[1]],
            [(Change.INSERTED, 1, 1)],
        ),
        (
            [transaction(1, b"a", b"b", b"c", places=b"\x00\x01\x05"), SEALED[1]],
            [(Change.INSERTED, 1, 5), (Change.DELETED, 1, 2)],
        ),
    ],
)
def test_tampered_rows_are_reported(
    stored: list[SealedTransaction], reported: list[tuple[Change, int, int]]
) -> None:
    """With what was done to them, their transaction and their place."""
    found = tampered_rows(unpacked(contents_of(SEALED).row_digests()), stored)
    assert [
        (row.change, int.from_bytes(row.transaction_id, "big"), row.place) for row in found
    ] == reported


def sealed(seal: Seal) -> Seal:
    return replace(seal, hash=seal.computed_hash())


FIRST = sealed(SEAL)
SECOND = replace(SEAL, sequence=2, first_txid=813, end_txid=900, previous_hash=FIRST.hash)
OF_NEXT_EPOCH = replace(SECOND, epoch=2, first_txid=0, system_identifier=2)


@pytest.mark.parametrize(
    "seal", [SECOND, OF_NEXT_EPOCH, replace(OF_NEXT_EPOCH, first_txid=5, is_restored=True)]
)
def test_seals_that_follow_each_other_have_no_fault(seal: Seal) -> None:
    """The first seal, the next of its epoch, and the first of another epoch."""
    assert link_fault(None, FIRST) is None
    assert link_fault(FIRST, sealed(seal)) is None


@pytest.mark.parametrize(
    ("seal", "words"),
    [
        (sealed(replace(SECOND, sequence=3)), "are missing"),
        (sealed(replace(SECOND, previous_hash=bytes(32))), "its previous hash"),
        (replace(sealed(SECOND), events_count=2), "not the hash of its fields"),
        (replace(sealed(SECOND), row_digests=b"x"), "not the hash of its fields"),
        (sealed(replace(SECOND, first_txid=814)), "does not begin where"),
        (sealed(replace(SECOND, system_identifier=2)), "does not begin where"),
        (sealed(replace(OF_NEXT_EPOCH, epoch=3)), "epoch is not the next one"),
        (sealed(replace(OF_NEXT_EPOCH, first_txid=1)), "epoch is not the next one"),
    ],
)
def test_fault_between_seals_is_reported(seal: Seal, words: str) -> None:
    """A missing, a replaced and a changed seal, and a range that was left out."""
    fault = link_fault(FIRST, seal)
    assert fault is not None
    assert words in fault
