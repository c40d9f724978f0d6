"""Finds the event of the books that each line of a report stands for.

By id first: a line has candidates. Then by reference and amount, then by reference alone where
only one event can be meant. Several lines may stand for one event, as a charge and its fee; an
event that is only the fee of a line belongs to that line.
"""

from collections.abc import Sequence
from datetime import timedelta

from ledger.reconciliation.books import BookEvent, Books, type_of
from ledger.reconciliation.layouts import Kind
from ledger.reconciliation.workspace import StoredEvent, StoredLine, Workspace

BY_ID = "id"
BY_REFERENCE = "reference"
BY_OWNER = "charge"

# Lines of these kinds are found by their ids alone: a reference names the charge.
_BY_ID_ONLY = (Kind.FEE, Kind.OTHER)
_OPEN = "event IS NULL AND duplicate_of IS NULL"


def match(workspace: Workspace, books: Books) -> None:
    """Assigns events to the lines of the workspace. Deterministic for the same report and books."""
    for lines in workspace.chunks("duplicate_of IS NULL"):
        _match_ids(workspace, books, lines)
    for lines in workspace.chunks(f"{_OPEN} AND kind = 'fee' AND owner_id <> ''"):
        for line in lines:
            _match_owner(workspace, line)
    by_reference = (
        f"{_OPEN} AND reference_list <> ''"
        f" AND kind NOT IN ({', '.join(repr(kind.value) for kind in _BY_ID_ONLY)})"
    )
    for is_amount_equal in (True, False):
        for lines in workspace.chunks(by_reference):
            for line in lines:
                _match_reference(workspace, books, line, is_amount_equal=is_amount_equal)
    for payouts in workspace.control_ids():
        workspace.add_events(books.find(list(dict.fromkeys(payouts))), in_period=False)
    workspace.index_matches()
    workspace.add_group_sums()


def _match_ids(workspace: Workspace, books: Books, lines: Sequence[StoredLine]) -> None:
    wanted = list(
        dict.fromkeys(
            event_id for line in lines for event_id in (*line.line.event_ids, *_fee_ids(line))
        )
    )
    found = workspace.events_by_id(wanted)
    missing = [
        event_id
        for line in lines
        if not any(_is_for(line, found.get(event_id)) for event_id in line.line.event_ids)
        for event_id in line.line.event_ids
        if event_id not in found
    ]
    missing += [event_id for line in lines for event_id in _fee_ids(line) if event_id not in found]
    if missing:
        missing = list(dict.fromkeys(missing))
        workspace.add_events(books.find(missing), in_period=False)
        found |= workspace.events_by_id(missing)
    for line in lines:
        for event_id in line.line.event_ids:
            event = found.get(event_id)
            if event is not None and _is_for(line, event):
                workspace.assign(line, event, BY_ID)
                break
        for event_id in _fee_ids(line):
            if event_id in found:
                workspace.assign_fee(line, found[event_id])


def _fee_ids(line: StoredLine) -> tuple[str, ...]:
    return line.line.fee_ids if line.line.cost_minor else ()


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


def _match_reference(
    workspace: Workspace, books: Books, line: StoredLine, *, is_amount_equal: bool
) -> None:
    wanted = type_of(line.line.kind, line.line.net_minor)
    if is_amount_equal:
        for reference in line.line.references:
            workspace.add_events(books.find_by_reference(reference), in_period=False)
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
