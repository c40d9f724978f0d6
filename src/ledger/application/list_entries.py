"""Returns pages of an account statement.

A statement has the entries of a period, oldest first, between an opening and a closing balance.
"""

from ledger.application.ports.statements import (
    AsksForStatement,
    StatementMoment,
    StatementPage,
    StatementPlace,
    StatementQuery,
    Statements,
)
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.errors import AmountOutOfRange, FieldViolation, InvalidRequest, RestaurantNotFound


async def list_entries(
    statements: Statements[StatementQuery],
    query: StatementQuery,
    after: StatementPlace | None,
    page_size: int,
) -> StatementPage:
    """Returns at most `page_size` entries after the place `after`, or from the start if it is None.

    All pages show the moment at which the first one was read: the opening balance plus the entries
    of all pages, unfiltered, is the closing balance, whatever is booked between two pages.

    A statement may lack entries of database transactions that began before its end and have not
    committed. It is final once these have ended, which takes seconds at most.

    Raises RestaurantNotFound; InvalidRequest when the period begins or ends in the future by the
    database's clock; AmountOutOfRange when a balance does not fit the contract's int64;
    DatabaseUnavailable, DatabaseTimeout.
    """
    if after is not None:
        return await statements.page(query, after, page_size)
    page = await statements.first_page(query, page_size)
    if page is None:
        raise RestaurantNotFound(query.account.holder_id)
    check_moment(query, page.moment)
    return page


def check_moment(query: AsksForStatement, moment: StatementMoment) -> None:
    """Raises InvalidRequest when the period begins or ends in the future by the database's clock,
    and AmountOutOfRange when a balance does not fit the contract's int64.
    """
    instants = {"start_at": query.start_at, "end_at": query.end_at}
    violations = [
        FieldViolation(field, "must not be in the future")
        for field, instant in instants.items()
        if instant is not None and instant > moment.read_at
    ]
    if violations:
        raise InvalidRequest(violations)
    balances = {
        "opening_balance_minor": moment.opening_minor,
        "closing_balance_minor": moment.closing_minor,
    }
    for field, balance_minor in balances.items():
        if not INT64_MIN <= balance_minor <= INT64_MAX:
            raise AmountOutOfRange(field)
