"""Recomputes the books from their rows alone and compares them with payouts and payout items."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from support.running import query

# Which entries a payout has in each state, by the chart of accounts: type, debit, credit.
RESERVE = ("PAYOUT_RESERVE", "restaurant_payable", "payout_reserved")
RELEASE = ("PAYOUT_RELEASE", "payout_reserved", "platform_cash")
REVERSAL = ("PAYOUT_REVERSAL", "payout_reserved", "restaurant_payable")
RETURN = ("PAYOUT_RETURN", "platform_cash", "restaurant_payable")
ENTRIES_BY_STATE = {
    "CREATED": [RESERVE],
    "PAID": sorted([RESERVE, RELEASE]),
    "FAILED": sorted([RESERVE, REVERSAL]),
    "RETURNED": sorted([RESERVE, RELEASE, RETURN]),
    "SUBMITTED": [RESERVE],
    "CANCELED": sorted([RESERVE, REVERSAL]),
}
# Where the bank reported the failure before it reported that the payout was paid.
RETURNED_IN_THE_OTHER_ORDER = ENTRIES_BY_STATE["FAILED"]


async def assert_reconciled(url: str, *, quiet: bool = True) -> None:
    """Recomputes each account from its rows alone and compares it with its payouts and their items.

    `quiet` states that no event was ingested while a run was paying. Only then is it known exactly
    which entries each payout counted, and the check covers them too.
    """
    entries: dict[int, list[Any]] = defaultdict(list)
    for entry in await query(
        url,
        """SELECT balance_account_id, recorded_txid::text::bigint, entry_type, debit_account,
                  credit_account, amount_minor, available_at, payout_id, transaction_id
           FROM ledger_entries""",
    ):
        entries[entry[0]].append(entry[1:])
    payouts: dict[int, list[Any]] = defaultdict(list)
    for payout in await query(
        url,
        """SELECT balance_account_id, payout_id, sequence, amount_minor, available_minor, as_of,
                  cutoff_at, state, transaction_id, payout_run_id, created_at,
                  COALESCE(retained_minor, 0), COALESCE(retained_before_minor, 0)
           FROM payouts ORDER BY balance_account_id, sequence""",
    ):
        payouts[payout[0]].append(payout[1:])
    items: dict[Any, dict[str, tuple[int, int]]] = defaultdict(dict)
    for payout_id, entry_type, counted_minor, amount_minor in await query(
        url, "SELECT payout_id, entry_type, counted_minor, amount_minor FROM payout_items"
    ):
        items[payout_id][entry_type] = (counted_minor, amount_minor)
    assert set(payouts) <= set(entries)
    for account, rows in entries.items():
        _assert_account_reconciled(account, rows, payouts[account], items, quiet=quiet)
    await _assert_runs_reconciled(url, payouts)


def _sum(rows: Iterable[Any], ledger_account: str) -> int:
    """The credits of a ledger account less its debits."""
    credit = {True: 1, False: 0}
    return sum(
        row[4] * (credit[row[3] == ledger_account] - credit[row[2] == ledger_account])
        for row in rows
    )


def _assert_account_reconciled(
    account: int,
    rows: list[Any],
    payouts: list[Any],
    items: dict[Any, dict[str, tuple[int, int]]],
    *,
    quiet: bool,
) -> None:
    by_state: Counter[str] = Counter()
    for payout in payouts:
        by_state[payout[6]] += payout[2]
    in_flight = by_state["CREATED"] + by_state["SUBMITTED"]
    out = in_flight + by_state["PAID"]
    assert _sum(rows, "payout_reserved") == in_flight, account
    # Repayments of the restaurant are cash as well.
    of_payouts = [row for row in rows if row[6] is not None]
    assert _sum(of_payouts, "platform_cash") == by_state["PAID"], account
    earned = _sum((row for row in rows if row[6] is None), "restaurant_payable")
    assert _sum(rows, "restaurant_payable") == earned - out, account

    assert [payout[1] for payout in payouts] == list(range(1, len(payouts) + 1)), account
    assert [payout[5] for payout in payouts] == sorted(payout[5] for payout in payouts), (
        "a cut-off went back"
    )
    assert sum(payout[6] in ("CREATED", "SUBMITTED") for payout in payouts) <= 1, account
    live = [payout[4] for payout in payouts if payout[6] in ("CREATED", "SUBMITTED", "PAID")]
    assert len(live) == len(set(live)), f"account {account} was paid twice for one date"

    before: dict[str, int] = {}
    reserved_before = left_before = 0
    for (
        payout_id,
        _,
        amount_minor,
        available_minor,
        _,
        cutoff_at,
        state,
        transaction_id,
        _,
        _,
        retained_minor,
        retained_before_minor,
    ) in payouts:
        assert 1 <= amount_minor <= available_minor, payout_id
        assert retained_before_minor == left_before, payout_id
        own = [row for row in rows if row[6] == payout_id]
        entries = sorted((row[1], row[2], row[3]) for row in own)
        if state != "RETURNED" or entries != RETURNED_IN_THE_OTHER_ORDER:
            assert entries == ENTRIES_BY_STATE[state], payout_id
        assert {row[4] for row in own} == {amount_minor}, payout_id
        (reserve,) = (row for row in own if row[1] == "PAYOUT_RESERVE")
        assert reserve[7] == transaction_id
        counted = {entry_type: item[0] for entry_type, item in items[payout_id].items()}
        itemised = sum(item[1] for item in items[payout_id].values())
        assert itemised + left_before - retained_minor == amount_minor, payout_id
        left_before = retained_minor
        for entry_type, (counted_minor, item_minor) in items[payout_id].items():
            assert item_minor == counted_minor - before.get(entry_type, 0), (payout_id, entry_type)
        assert set(before) <= set(counted), (
            "the payout lacks an entry type that an earlier one counted"
        )
        # The sums telescope: all that was ever counted equals what all payouts have reserved, and
        # what the latest one left.
        reserved_before += amount_minor
        assert sum(counted.values()) == reserved_before + retained_minor, payout_id
        if quiet:
            seen = [
                row
                for row in rows
                if row[0] < reserve[0] and (row[5] is None or row[5] <= cutoff_at)
            ]
            by_type: Counter[str] = Counter()
            for row in seen:
                by_type[row[1]] += _sum([row], "restaurant_payable")
            assert _sum(seen, "restaurant_payable") == amount_minor + retained_minor, payout_id
            del by_type["PAYOUT_RESERVE"]
            wrong = {
                entry_type
                for entry_type in counted | by_type
                if counted.get(entry_type, 0) != by_type[entry_type]
            }
            assert not wrong, (payout_id, wrong)
        before = counted


async def _assert_runs_reconciled(url: str, payouts: dict[int, list[Any]]) -> None:
    """Asserts that every payout is the item of one run, and that no run has a restaurant twice."""
    rows = await query(
        url,
        """SELECT r.payout_run_id, r.state, r.currency, a.currency, i.balance_account_id,
                  i.outcome, i.payout_id, a.restaurant_id = i.restaurant_id
           FROM payout_run_items AS i JOIN payout_runs AS r USING (payout_run_id)
           JOIN balance_accounts AS a USING (balance_account_id)""",
    )
    assert all(row[2] == row[3] and row[7] for row in rows)
    assert len({(row[0], row[4]) for row in rows}) == len(rows)
    assert not [row for row in rows if row[1] == "SUCCEEDED" and row[5] == "OPEN"]
    got = {(row[0], row[4], row[6]) for row in rows if row[5] == "PAYOUT_CREATED"}
    assert got == {
        (payout[8], account, payout[0]) for account, all_ in payouts.items() for payout in all_
    }
