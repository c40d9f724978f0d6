"""ListAccountEntries: the balance after each entry, over all pages."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from ledger.application.list_account_entries import list_account_entries
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.statements import (
    AccountStatementQuery,
    StatementMoment,
    StatementPage,
    StatementPlace,
)
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.posting_rules import EntryType
from ledger.errors import AccountNotFound, AmountOutOfRange, InvalidRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INT64_MAX = 2**63 - 1
WHOLE = AccountStatementQuery("acc_1", None, None, frozenset(), None)
FILTERED = [
    AccountStatementQuery("acc_1", None, None, frozenset({EntryType.TRANSFER_IN}), None),
    AccountStatementQuery("acc_1", None, None, frozenset(), "pay_1"),
]


def entry_of(amount_minor: int) -> StoredEntry:
    """An entry that adds the amount to the funds of acc_1, or takes it off."""
    funds, inter = LedgerAccount.ACCOUNT_FUNDS, LedgerAccount.INTERACCOUNT
    return StoredEntry(
        UUID(int=1),
        1,
        EntryType.TRANSFER_IN if amount_minor > 0 else EntryType.TRANSFER_OUT,
        inter if amount_minor > 0 else funds,
        funds if amount_minor > 0 else inter,
        abs(amount_minor),
        None,
        "PEN",
        None,
        None,
        0,
        None,
        None,
        "pay_1",
        "acc_1",
    )


class FakeStatements:
    """Implements `Statements` of acc_1, which has entries of these amounts."""

    def __init__(self, opening_minor: int, *amounts: int) -> None:
        self._amounts = amounts
        self._moment = StatementMoment(NOW, 1, (), opening_minor, opening_minor + sum(amounts))

    async def first_page(self, query: AccountStatementQuery, limit: int) -> StatementPage | None:
        return None if query.account_id != "acc_1" else self._cut(0, limit)

    async def page(
        self, query: AccountStatementQuery, after: StatementPlace, limit: int
    ) -> StatementPage:
        return self._cut(after.position, limit)

    def _cut(self, begin: int, limit: int) -> StatementPage:
        end = begin + limit
        place = StatementPlace(self._moment, NOW, 0, UUID(int=0), end)
        return StatementPage(
            [entry_of(amount) for amount in self._amounts[begin:end]],
            place if end < len(self._amounts) else None,
            self._moment,
        )


async def balances(statements: FakeStatements, query: AccountStatementQuery) -> list[int | None]:
    """The balances after all entries, read in pages of two."""
    found: list[int | None] = []
    page = await list_account_entries(statements, query, None, 2)
    found += [balance_minor for _, balance_minor in page.items]
    while page.next_place is not None:
        page = await list_account_entries(statements, query, page.next_place, 2)
        found += [balance_minor for _, balance_minor in page.items]
    return found


async def test_balance_goes_on_over_all_pages() -> None:
    """From the opening balance to the closing one."""
    assert await balances(FakeStatements(10, 5, -20, 3, 1, -9), WHOLE) == [15, -5, -2, -1, -10]
    assert await balances(FakeStatements(10), WHOLE) == []


@pytest.mark.parametrize("query", FILTERED)
async def test_filtered_statement_has_no_balances(query: AccountStatementQuery) -> None:
    """Entries are missing in between, also on its later pages."""
    assert await balances(FakeStatements(10, 5, -20, 3), query) == [None, None, None]


async def test_balance_that_does_not_fit_is_refused() -> None:
    """Before the period, after it, or in between."""
    for statements, field in (
        (FakeStatements(INT64_MAX + 1, -1), "opening_balance_minor"),
        (FakeStatements(INT64_MAX, 1), "closing_balance_minor"),
        (FakeStatements(INT64_MAX, -1, 2, -1), "balance_minor"),
        (FakeStatements(-INT64_MAX, -2, 2), "balance_minor"),
    ):
        with pytest.raises(AmountOutOfRange) as caught:
            await balances(statements, WHOLE)
        assert caught.value.field == field


async def test_unknown_account_and_periods_of_the_future_are_refused() -> None:
    statements = FakeStatements(0)
    with pytest.raises(AccountNotFound):
        await balances(statements, AccountStatementQuery("acc_2", None, None, frozenset(), None))
    later = NOW + timedelta(microseconds=1)
    with pytest.raises(InvalidRequest) as caught:
        await balances(statements, AccountStatementQuery("acc_1", later, later, frozenset(), None))
    assert [violation.field for violation in caught.value.violations] == ["start_at", "end_at"]
