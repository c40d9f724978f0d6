"""Returns pages of the statement of an account, with the balance after each entry."""

from dataclasses import dataclass
from typing import NamedTuple

from ledger.application.list_entries import check_moment
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.pages import Page
from ledger.application.ports.statements import (
    AccountStatementQuery,
    StatementMoment,
    StatementPlace,
    Statements,
)
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.errors import AccountNotFound, AmountOutOfRange


class AccountLine(NamedTuple):
    """An entry, and what was available after it, in minor units. None in a filtered statement."""

    entry: StoredEntry
    balance_minor: int | None


@dataclass(frozen=True, slots=True)
class AccountPlace:
    """A line of a statement, after which its next page begins."""

    place: StatementPlace
    balance_minor: int | None


@dataclass(frozen=True, slots=True)
class AccountStatementPage(Page[AccountLine, AccountPlace]):
    """Some lines of a statement, oldest first, as they were at a moment."""

    moment: StatementMoment


async def list_account_entries(
    statements: Statements[AccountStatementQuery],
    query: AccountStatementQuery,
    after: AccountPlace | None,
    page_size: int,
) -> AccountStatementPage:
    """Returns at most `page_size` lines after the place `after`, or from the start if it is None.

    All pages show the moment at which the first one was read, as those of `list_entries` do. In an
    unfiltered statement the balance after the last line is the closing balance.

    Raises AccountNotFound; InvalidRequest when the period begins or ends in the future by the
    database's clock; AmountOutOfRange when a balance does not fit the contract's int64;
    DatabaseUnavailable, DatabaseTimeout.
    """
    if after is not None:
        page = await statements.page(query, after.place, page_size)
        balance_minor = after.balance_minor
    else:
        first = await statements.first_page(query, page_size)
        if first is None:
            raise AccountNotFound(query.account_id)
        page = first
        check_moment(query, page.moment)
        balance_minor = None if query.is_filtered else page.moment.opening_minor
    lines: list[AccountLine] = []
    for entry in page.items:
        if balance_minor is not None:
            balance_minor += _available_minor(entry)
            if not INT64_MIN <= balance_minor <= INT64_MAX:
                raise AmountOutOfRange("balance_minor")
        lines.append(AccountLine(entry, balance_minor))
    return AccountStatementPage(
        lines,
        None if page.next_place is None else AccountPlace(page.next_place, balance_minor),
        page.moment,
    )


def _available_minor(entry: StoredEntry) -> int:
    """What an entry of the statement adds to what is available."""
    if entry.credit is LedgerAccount.ACCOUNT_FUNDS:
        return entry.amount_minor
    return -entry.amount_minor
