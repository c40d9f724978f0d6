"""Adds the rows of `ledger report red` up by the age of the debts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger.infrastructure.postgres.verification.reports import Report, Value

# The names of the ages, and the most whole days of each.
_AGES = (("0 to 7 days", 7), ("8 to 30 days", 30), ("31 to 90 days", 90), ("over 90 days", None))


def one_row_an_age(found: "Report") -> "Report":
    """A row for each age, also without debts: how many restaurants, and what they have available
    and pending, in minor units.
    """
    places = {column: place for place, column in enumerate(found.columns)}
    counts = dict.fromkeys((name for name, _ in _AGES), 0)
    available, pending = dict.fromkeys(counts, 0), dict.fromkeys(counts, 0)
    for row in found.rows:
        age = _age_of(row[places["days_count"]])
        counts[age] += 1
        # Sums are Decimal, as PostgreSQL's numeric: they may exceed a bigint.
        available[age] += int(str(row[places["available_minor"]]))
        pending[age] += int(str(row[places["pending_minor"]]))
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (age, counts[age], available[age], pending[age]) for age in counts
    )
    columns = ("age", "restaurants_count", "available_minor", "pending_minor")
    return type(found)(columns, rows, found.is_complete)


def _age_of(days: "Value") -> str:
    return next(name for name, most in _AGES if most is None or int(str(days)) <= most)
