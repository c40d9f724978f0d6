"""Finds the event of the books that each line of a report stands for.

By id first: a line has candidates. Then by reference and amount, then by reference alone where
only one event can be meant. Several lines may stand for one event, as a charge and its fee; an
event that is only the fee of a line belongs to that line.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import chain

from ledger.reconciliation.books import BookEvent, Books, type_of
from ledger.reconciliation.layouts import Kind
from ledger.reconciliation.workspace import StoredEvent, StoredLine, Workspace

BY_ID = "id"
BY_REFERENCE = "reference"
BY_OWNER = "charge"

# Lines of these kinds are found by their ids alone: a reference names the charge.
_BY_ID_ONLY = (Kind.FEE, Kind.OTHER)
# A dispute's fee comes back when the dispute is decided.
_FEES_OF_OTHER_DAYS = (Kind.DISPUTE, Kind.DISPUTE_REVERSAL)
# Lines that are looked up by reference one by one, outside the period.
REFERENCE_LOOKUPS_MAX = 1000
_OPEN = "event IS NULL AND duplicate_of IS NULL"


def match(workspace: Workspace, books: Books, *, has_period: bool) -> list[str]:
    """Assigns events to the lines of the workspace. Deterministic for the same report and books.

    `has_period` says that the events of the report's period are in the workspace already. Returns
    what a reader should know about it.
    """
    notes: list[str] = []
    for lines in workspace.chunks("duplicate_of IS NULL AND event_ids <> ''"):
        _match_ids(workspace, books, lines)
    for lines in workspace.chunks(f"{_OPEN} AND kind = 'fee' AND owner_id <> ''"):
        for line in lines:
            _match_owner(workspace, line)
    kinds = ", ".join(repr(kind.value) for kind in _BY_ID_ONLY)
    by_reference = f"{_OPEN} AND reference_list <> '' AND kind NOT IN ({kinds})"
    open_lines = workspace.count(by_reference)
    if open_lines > REFERENCE_LOOKUPS_MAX:
        notes.append(
            f"{open_lines} lines have no event by id: by reference they were only compared with the"
            " events of the period"
        )
    for is_amount_equal in (True, False):
        for lines in workspace.chunks(by_reference):
            for line in lines:
                if is_amount_equal and open_lines <= REFERENCE_LOOKUPS_MAX:
                    for reference in line.line.references:
                        workspace.add_events(books.find_by_reference(reference), in_period=False)
                _match_reference(workspace, line, is_amount_equal=is_amount_equal)
    for lines in workspace.chunks("duplicate_of IS NULL AND cost_minor <> 0 AND fee_ids <> ''"):
        _match_fees(workspace, books, lines, has_period=has_period)
    for payouts in workspace.control_ids():
        workspace.add_events(books.find(list(dict.fromkeys(payouts))), in_period=False)
    workspace.index_matches()
    workspace.add_group_sums()
    return notes


def _match_ids(workspace: Workspace, books: Books, lines: Sequence[StoredLine]) -> None:
    """Assigns the first candidate of each line that is booked and of its type."""
    found = workspace.events_by_id(_all(line.line.event_ids for line in lines))
    missing = _all(
        [event_id for event_id in line.line.event_ids if event_id not in found]
        for line in lines
        if not any(_is_for(line, found.get(event_id)) for event_id in line.line.event_ids)
    )
    if missing:
        workspace.add_events(books.find(missing), in_period=False)
        found |= workspace.events_by_id(missing)
    pairs: list[tuple[StoredLine, StoredEvent]] = []
    for line in lines:
        for event_id in line.line.event_ids:
            event = found.get(event_id)
            if event is not None and _is_for(line, event):
                pairs.append((line, event))
                break
    workspace.assign_all(pairs, BY_ID)


def _match_fees(
    workspace: Workspace, books: Books, lines: Sequence[StoredLine], *, has_period: bool
) -> None:
    """Finds the events that are the fee of a line alone.

    Outside the period only for lines whose fee the books seem to lack: what `--post` books has the
    instant of its line. The fee of a dispute may be an event of another day.
    """
    found = workspace.events_by_id(_all(line.line.fee_ids for line in lines))
    events = workspace.events_at([line.event for line in lines if line.event is not None])
    missing = _all(
        [fee_id for fee_id in line.line.fee_ids if fee_id not in found]
        for line in lines
        if (not has_period or line.line.kind in _FEES_OF_OTHER_DAYS)
        and (line.event is None or not events[line.event].cost_minor)
    )
    if missing:
        workspace.add_events(books.find(missing), in_period=False)
        found |= workspace.events_by_id(missing)
    for line in lines:
        for fee_id in line.line.fee_ids:
            if fee_id in found:
                workspace.assign_fee(line, found[fee_id])


def _all(several: Iterable[Iterable[str]]) -> list[str]:
    """All of them, each once, in their order."""
    return list(dict.fromkeys(chain.from_iterable(several)))


def _is_for(line: StoredLine, event: StoredEvent | None) -> bool:
    """Whether the event is of the type that the line stands for."""
    return event is not None and event.event.type == type_of(line.line.kind, line.line.net_minor)


def _match_owner(workspace: Workspace, line: StoredLine) -> None:
    """A fee row is a part of its charge if that is what the charge's fee lacks."""
    charge = workspace.events_by_id([line.line.owner_id]).get(line.line.owner_id)
    if charge is None or charge.event.currency != line.line.currency:
        return
    told = sum(other.line.cost_minor for other in workspace.lines_of(charge.id))
    if told + line.line.cost_minor == charge.event.cost_minor:
        workspace.assign(line, charge, BY_OWNER)


def _match_reference(workspace: Workspace, line: StoredLine, *, is_amount_equal: bool) -> None:
    wanted = type_of(line.line.kind, line.line.net_minor)
    events = [
        stored
        for stored in workspace.free_events_by_reference(line.line.references)
        if stored.event.type == wanted
    ]
    if is_amount_equal:
        events = [stored for stored in events if _agrees(line, stored.event)]
        # Of several, the one nearest in time.
        events.sort(key=lambda stored: _distance(line, stored.event))
    elif len(events) != 1:
        return
    if events:
        workspace.assign(line, events[0], BY_REFERENCE)


def _agrees(line: StoredLine, event: BookEvent) -> bool:
    return event.currency == line.line.currency and abs(line.line.gross_minor) == event.amount_minor


def _distance(line: StoredLine, event: BookEvent) -> tuple[timedelta, str]:
    occurred_at = line.line.occurred_at or event.occurred_at
    return abs(event.occurred_at - occurred_at), event.event_id
