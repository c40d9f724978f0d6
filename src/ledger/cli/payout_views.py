"""What `ledger payouts` shows: runs and payouts as tables for people and as JSON for scripts."""

from collections.abc import Iterable

from google.type import date_pb2
from rich.table import Table

from ledger.cli.instants import format_instant
from ledger.cli.output import JsonValue
from ledger.domain.money import format_minor
from ledger.v1 import ledger_pb2


def run_table(run: ledger_pb2.PayoutRun) -> Table:
    """A run or the plan of one: what it is, how far it is, what it paid, and what it skipped for which reason."""
    table = Table(show_header=False)
    if run.payout_run_id:
        table.add_row("run", run.payout_run_id)
    table.add_row("state", run_state(run))
    table.add_row("pays out by", f"{format_date(run.as_of)}, cut-off {format_instant(run.cutoff_at)}")
    if run.min_amount_minor:
        table.add_row("minimum", f"{format_minor(run.min_amount_minor, run.currency)} {run.currency}")
    if run.request_id:
        table.add_row("request id", run.request_id)
    table.add_row("restaurants", f"{run.restaurants_considered} of {run.restaurants_total} considered")
    table.add_row("payouts", str(run.payouts_created))
    table.add_row("total", f"{format_minor(run.total_amount_minor, run.currency)} {run.currency}")
    for skipped in run.skipped:
        table.add_row("skipped", f"{skipped.count} {_reason(skipped.reason)}")
    if run.HasField("created_at"):
        table.add_row("created", format_instant(run.created_at))
    if run.HasField("finished_at"):
        table.add_row("finished", format_instant(run.finished_at))
    return table


def payouts_table(payouts: Iterable[ledger_pb2.Payout]) -> Table:
    """Payouts, one a row."""
    table = Table("payout", "restaurant", "as of", "state", "currency")
    table.add_column("amount", justify="right")
    table.add_column("created")
    for payout in payouts:
        table.add_row(
            payout.payout_id,
            payout.restaurant_id,
            format_date(payout.as_of),
            payout_state(payout.state),
            payout.currency,
            format_minor(payout.amount_minor, payout.currency),
            format_instant(payout.created_at),
        )
    return table


def items_table(payout: ledger_pb2.Payout) -> Table:
    """What a payout's amount consists of."""
    table = Table("item")
    table.add_column(payout.currency, justify="right")
    for item in payout.items:
        table.add_row(_item_type(item), format_minor(item.amount_minor, payout.currency))
    table.add_section()
    table.add_row("total", format_minor(sum(item.amount_minor for item in payout.items), payout.currency))
    return table


def history_table(payout: ledger_pb2.Payout) -> Table:
    """A payout's moves."""
    table = Table("state", "recorded", "event", "transaction id")
    for move in payout.history:
        table.add_row(payout_state(move.state), format_instant(move.recorded_at), move.event_id, move.transaction_id)
    return table


def payout_state(number: ledger_pb2.PayoutState.ValueType) -> str:
    """The state as people write it."""
    return ledger_pb2.PayoutState.Name(number).removeprefix("PAYOUT_STATE_").lower()


def format_date(day: date_pb2.Date) -> str:
    """The date in ISO 8601."""
    return f"{day.year:04}-{day.month:02}-{day.day:02}"


def run_state(run: ledger_pb2.PayoutRun) -> str:
    return ledger_pb2.PayoutRunState.Name(run.state).removeprefix("PAYOUT_RUN_STATE_").lower()


def _reason(number: ledger_pb2.SkipReason.ValueType) -> str:
    return ledger_pb2.SkipReason.Name(number).removeprefix("SKIP_REASON_").lower()


def _outcome(item: ledger_pb2.PayoutRunItem) -> str:
    return ledger_pb2.PayoutRunItemOutcome.Name(item.outcome).removeprefix("PAYOUT_RUN_ITEM_OUTCOME_").lower()


def _item_type(item: ledger_pb2.PayoutItem) -> str:
    return ledger_pb2.EntryType.Name(item.type).removeprefix("ENTRY_TYPE_").lower()


def payout_table(payout: ledger_pb2.Payout) -> Table:
    table = Table(show_header=False)
    table.add_row("payout", payout.payout_id)
    table.add_row("restaurant", payout.restaurant_id)
    table.add_row("amount", f"{format_minor(payout.amount_minor, payout.currency)} {payout.currency}")
    table.add_row("state", payout_state(payout.state))
    table.add_row("pays out by", f"{format_date(payout.as_of)}, cut-off {format_instant(payout.cutoff_at)}")
    table.add_row("run", payout.payout_run_id)
    return table


def run_items_table(items: Iterable[ledger_pb2.PayoutRunItem], currency: str) -> Table:
    table = Table("restaurant", "outcome", "reason", "payout")
    table.add_column(currency, justify="right")
    for item in items:
        reason = _reason(item.skip_reason) if item.skip_reason else ""
        amount = format_minor(item.amount_minor, currency) if item.payout_id else ""
        table.add_row(item.restaurant_id, _outcome(item), reason, item.payout_id, amount)
    return table


def json_of_run(run: ledger_pb2.PayoutRun) -> dict[str, JsonValue]:
    skipped: dict[str, JsonValue] = {_reason(skipped.reason): skipped.count for skipped in run.skipped}
    return {
        "payout_run_id": run.payout_run_id or None,
        "currency": run.currency,
        "as_of": format_date(run.as_of),
        "cutoff_at": format_instant(run.cutoff_at),
        "min_amount_minor": run.min_amount_minor,
        "request_id": run.request_id,
        "state": run_state(run),
        "payouts_created": run.payouts_created,
        "total_amount_minor": run.total_amount_minor,
        "total_amount": format_minor(run.total_amount_minor, run.currency),
        "restaurants_considered": run.restaurants_considered,
        "restaurants_total": run.restaurants_total,
        "skipped": skipped,
        "created_at": format_instant(run.created_at) if run.HasField("created_at") else None,
        "finished_at": format_instant(run.finished_at) if run.HasField("finished_at") else None,
    }


def json_of_run_item(item: ledger_pb2.PayoutRunItem) -> dict[str, JsonValue]:
    return {
        "restaurant_id": item.restaurant_id,
        "outcome": _outcome(item),
        "skip_reason": _reason(item.skip_reason) if item.skip_reason else None,
        "payout_id": item.payout_id or None,
        "amount_minor": item.amount_minor,
    }


def json_of_payout(payout: ledger_pb2.Payout) -> dict[str, JsonValue]:
    """The payout under its names in the contract; with items and history only if it has come with them."""
    written: dict[str, JsonValue] = {
        "payout_id": payout.payout_id,
        "payout_run_id": payout.payout_run_id,
        "restaurant_id": payout.restaurant_id,
        "currency": payout.currency,
        "amount_minor": payout.amount_minor,
        "amount": format_minor(payout.amount_minor, payout.currency),
        "as_of": format_date(payout.as_of),
        "cutoff_at": format_instant(payout.cutoff_at),
        "state": payout_state(payout.state),
        "created_at": format_instant(payout.created_at),
        "transaction_id": payout.transaction_id,
    }
    if payout.history:
        written["items"] = [{"type": _item_type(item), "amount_minor": item.amount_minor} for item in payout.items]
        written["history"] = [
            {
                "state": payout_state(move.state),
                "recorded_at": format_instant(move.recorded_at),
                "event_id": move.event_id or None,
                "transaction_id": move.transaction_id,
            }
            for move in payout.history
        ]
    return written
