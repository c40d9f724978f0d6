"""Shows events and their entries as tables for people and as JSON for programs."""

from collections.abc import Iterable, Mapping

from ledger.cli.instants import format_instant
from ledger.cli.metadata import add_pairs, json_of_pairs
from ledger.cli.output import JsonValue, Table, facts
from ledger.cli.payouts.views import failure_of, payout_state
from ledger.cli.words import amount_of, amount_or_none, word_of
from ledger.v1 import ledger_pb2


def events_table(events: Iterable[ledger_pb2.ListedEvent]) -> Table:
    """Events, one a row."""
    titles = ("recorded", "event", "type", "restaurant", "currency", "amount", "fee", "reference")
    table = Table(
        titles,
        right=frozenset(("amount", "fee")),
        optional=("reference", "fee", "currency"),
    )
    for listed in events:
        event = listed.event
        table.add(
            format_instant(listed.recorded_at),
            event.event_id,
            event_type(event),
            event.restaurant_id,
            event.currency,
            amount_of(event.amount_minor, event.currency),
            amount_of(event.fee_minor, event.currency) if event.fee_minor else "",
            event.reference,
        )
    return table


def event_table(
    event: ledger_pb2.ProcessorEvent, transaction_id: str = "", recorded_at: str = ""
) -> Table:
    """One event, with all that it says."""
    table = facts()
    table.add("event", event.event_id)
    table.add("type", event_type(event))
    if event.restaurant_id:
        table.add("restaurant", event.restaurant_id)
    table.add("amount", f"{amount_of(event.amount_minor, event.currency)} {event.currency}")
    if event.fee_minor:
        table.add("fee", amount_of(event.fee_minor, event.currency))
    if event.reference:
        table.add("reference", event.reference)
    if event.payout_id:
        table.add("payout", event.payout_id)
    table.add("occurred", format_instant(event.occurred_at))
    if event.HasField("available_at"):
        table.add("available", format_instant(event.available_at))
    if event.processor_fee_minor:
        table.add("processor fee", amount_of(event.processor_fee_minor, event.currency))
    if event.bank_reference:
        table.add("bank reference", event.bank_reference)
    if event.failure_code or event.failure_text:
        table.add("failure", failure_of(event))
    if recorded_at:
        table.add("recorded", recorded_at)
    if transaction_id:
        table.add("transaction id", transaction_id)
    add_pairs(table, event.metadata)
    return table


def entries_table(
    entries: Iterable[ledger_pb2.EventEntry],
    payouts: Mapping[str, ledger_pb2.Payout],
    currency: str,
) -> Table:
    """The entries of events, each with the payout that counted it."""
    table = Table(
        ("event", "entry", "debit", "credit", currency, "available", "payout"),
        right=frozenset((currency,)),
        optional=("available",),
    )
    for counted in entries:
        entry = counted.entry
        table.add(
            entry.event_id,
            word_of(ledger_pb2.EntryType, entry.type),
            word_of(ledger_pb2.LedgerAccount, entry.debit_account),
            word_of(ledger_pb2.LedgerAccount, entry.credit_account),
            amount_of(entry.amount_minor, entry.currency),
            format_instant(entry.available_at) if entry.HasField("available_at") else "at once",
            _payout_of(counted, payouts),
        )
    return table


def posted_table(entries: Iterable[ledger_pb2.LedgerEntry], currency: str) -> Table:
    """Entries without the payouts that counted them."""
    table = Table(("entry", "debit", "credit", currency, "available"), right=frozenset((currency,)))
    for entry in entries:
        table.add(
            word_of(ledger_pb2.EntryType, entry.type),
            word_of(ledger_pb2.LedgerAccount, entry.debit_account),
            word_of(ledger_pb2.LedgerAccount, entry.credit_account),
            amount_of(entry.amount_minor, entry.currency),
            format_instant(entry.available_at) if entry.HasField("available_at") else "at once",
        )
    return table


def event_type(event: ledger_pb2.ProcessorEvent) -> str:
    """The type as people write it."""
    return word_of(ledger_pb2.EventType, event.type)


def json_of_event(event: ledger_pb2.ProcessorEvent) -> dict[str, JsonValue]:
    """The event by the contract's field names, each amount also as people write it."""
    return {
        "event_id": event.event_id,
        "type": event_type(event),
        "restaurant_id": event.restaurant_id or None,
        "currency": event.currency,
        "amount_minor": str(event.amount_minor),
        "amount": amount_or_none(event.amount_minor, event.currency),
        "fee_minor": str(event.fee_minor),
        "fee": amount_or_none(event.fee_minor, event.currency),
        "processor_fee_minor": str(event.processor_fee_minor),
        "processor_fee": amount_or_none(event.processor_fee_minor, event.currency),
        "occurred_at": format_instant(event.occurred_at),
        "available_at": format_instant(event.available_at)
        if event.HasField("available_at")
        else None,
        "payout_id": event.payout_id or None,
        "reference": event.reference,
        "bank_reference": event.bank_reference or None,
        "failure_code": event.failure_code or None,
        "failure_text": event.failure_text or None,
        "metadata": json_of_pairs(event.metadata),
    }


def json_of_listed_event(
    listed: ledger_pb2.ListedEvent, payouts: Mapping[str, ledger_pb2.Payout]
) -> dict[str, JsonValue]:
    """An event of a list, with its entries if the response has them."""
    written = {
        **json_of_event(listed.event),
        "transaction_id": listed.transaction_id,
        "recorded_at": format_instant(listed.recorded_at),
    }
    if listed.entries:
        written["entries"] = [
            {
                **json_of_entry(counted.entry),
                "counted_by_payout_id": counted.counted_by_payout_id or None,
                "payout_state": payout_state(payouts[counted.counted_by_payout_id].state)
                if counted.counted_by_payout_id in payouts
                else None,
                "is_payout_unknown": counted.is_payout_unknown,
            }
            for counted in listed.entries
        ]
    return written


def json_of_entry(entry: ledger_pb2.LedgerEntry) -> dict[str, JsonValue]:
    """The entry by the contract's field names, without the event that posted it."""
    return {
        "transaction_id": entry.transaction_id or None,
        "position": entry.position,
        "type": word_of(ledger_pb2.EntryType, entry.type),
        "debit_account": word_of(ledger_pb2.LedgerAccount, entry.debit_account),
        "credit_account": word_of(ledger_pb2.LedgerAccount, entry.credit_account),
        "amount_minor": str(entry.amount_minor),
        "amount": amount_or_none(entry.amount_minor, entry.currency),
        "currency": entry.currency,
        "available_at": format_instant(entry.available_at)
        if entry.HasField("available_at")
        else None,
    }


def _payout_of(counted: ledger_pb2.EventEntry, payouts: Mapping[str, ledger_pb2.Payout]) -> str:
    if counted.is_payout_unknown:
        return "not known"
    payout = payouts.get(counted.counted_by_payout_id)
    if payout is None:
        return counted.counted_by_payout_id
    return f"{payout.payout_id} {payout_state(payout.state)}"
