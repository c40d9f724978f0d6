"""Shows runs and payouts as tables for people and as JSON for programs."""

from collections.abc import Iterable

from google.type import date_pb2

from ledger.cli.instants import format_instant
from ledger.cli.output import JsonValue, Table, facts
from ledger.cli.words import amount_of, amount_or_none, word_of
from ledger.v1 import ledger_pb2


def run_table(run: ledger_pb2.PayoutRun) -> Table:
    """A run or its plan: its terms, progress, payouts, and the number skipped for each reason."""
    table = facts()
    if run.payout_run_id:
        table.add("run", run.payout_run_id)
    table.add("state", run_state(run))
    table.add("pays out by", f"{format_date(run.as_of)}, cut-off {format_instant(run.cutoff_at)}")
    if run.min_amount_minor:
        table.add("minimum", _money(run.min_amount_minor, run.currency))
    if run.request_id:
        table.add("request id", run.request_id)
    considered = f"{run.restaurants_considered} of {run.restaurants_total} considered"
    if run.restaurants_named:
        considered += f", {run.restaurants_named} named"
    if not run.restaurants_total:
        considered += f": none has ever had an event in {run.currency}"
    table.add("restaurants", considered)
    table.add("payouts", str(run.payouts_created))
    total = _money(run.total_amount_minor, run.currency)
    table.add("total", f"more than {total}" if run.is_capped else total)
    for skipped in run.skipped:
        table.add("skipped", f"{skipped.count} {_reason(skipped.reason)}")
    if run.HasField("created_at"):
        table.add("created", format_instant(run.created_at))
    if run.HasField("finished_at"):
        table.add("finished", format_instant(run.finished_at))
    return table


def runs_table(runs: Iterable[ledger_pb2.PayoutRun]) -> Table:
    """Runs, one a row."""
    titles = ("run", "currency", "as of", "minimum", "request id", "state", "created", "finished")
    table = Table(
        titles,
        right=frozenset(("minimum",)),
        optional=("finished", "created", "request id", "minimum"),
    )
    for run in runs:
        table.add(
            run.payout_run_id,
            run.currency,
            format_date(run.as_of),
            amount_of(run.min_amount_minor, run.currency),
            run.request_id,
            run_state(run),
            format_instant(run.created_at),
            format_instant(run.finished_at) if run.HasField("finished_at") else "",
        )
    return table


def payouts_table(payouts: Iterable[ledger_pb2.Payout]) -> Table:
    """Payouts, one a row. A failed one has the code of its failure beside its state."""
    titles = ("payout", "restaurant", "as of", "state", "currency", "amount", "created")
    table = Table(titles, right=frozenset(("amount",)), optional=("created", "as of"))
    for payout in payouts:
        table.add(
            payout.payout_id,
            payout.restaurant_id,
            format_date(payout.as_of),
            " ".join(filter(None, (payout_state(payout.state), payout.failure_code))),
            payout.currency,
            amount_of(payout.amount_minor, payout.currency),
            format_instant(payout.created_at),
        )
    return table


def items_table(payout: ledger_pb2.Payout) -> Table:
    """The items that add up to a payout's amount."""
    table = Table(("item", payout.currency), right=frozenset((payout.currency,)))
    for item in payout.items:
        table.add(_item_type(item), amount_of(item.amount_minor, payout.currency))
    total = sum(item.amount_minor for item in payout.items)
    for name, amount_minor in retained_parts(payout):
        table.add(name, amount_of(amount_minor, payout.currency))
        total += amount_minor
    table.footer = ("total", amount_of(total, payout.currency))
    return table


def retained_parts(payout: ledger_pb2.Payout) -> list[tuple[str, int]]:
    """What the payout before left and what this one leaves, where not zero, in minor units.

    With the items they add up to the payout's amount.
    """
    parts = [
        ("left before", payout.retained_before_minor),
        ("left in the account", -payout.retained_minor),
    ]
    return [(name, amount_minor) for name, amount_minor in parts if amount_minor]


def history_table(payout: ledger_pb2.Payout) -> Table:
    """The moves of a payout from state to state."""
    table = Table(("state", "recorded", "event", "transaction id"))
    for move in payout.history:
        table.add(
            payout_state(move.state),
            format_instant(move.recorded_at),
            move.event_id,
            move.transaction_id,
        )
    return table


def is_under_way(run: ledger_pb2.PayoutRun) -> bool:
    """Whether the run has not ended.

    If only a newer server knows the run's state, the run has ended if `finished_at` is set.
    """
    if run.state in ledger_pb2.PayoutRunState.values():
        return run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING
    return not run.HasField("finished_at")


def _money(amount_minor: int, currency: str) -> str:
    return f"{amount_of(amount_minor, currency)} {currency}"


def payout_state(number: ledger_pb2.PayoutState.ValueType) -> str:
    """The state as people write it."""
    return word_of(ledger_pb2.PayoutState, number)


def failure_of(failed: ledger_pb2.Payout | ledger_pb2.ProcessorEvent) -> str:
    """Why the bank refused a payout: its code, its words, or both."""
    return " ".join(filter(None, (failed.failure_code, failed.failure_text)))


def format_date(day: date_pb2.Date) -> str:
    """The date in ISO 8601."""
    return f"{day.year:04}-{day.month:02}-{day.day:02}"


def run_state(run: ledger_pb2.PayoutRun) -> str:
    """The run's state as people write it."""
    return word_of(ledger_pb2.PayoutRunState, run.state)


def _reason(number: ledger_pb2.SkipReason.ValueType) -> str:
    return word_of(ledger_pb2.SkipReason, number)


def _outcome(item: ledger_pb2.PayoutRunItem) -> str:
    return word_of(ledger_pb2.PayoutRunItemOutcome, item.outcome)


def _item_type(item: ledger_pb2.PayoutItem) -> str:
    return word_of(ledger_pb2.EntryType, item.type)


def payout_table(payout: ledger_pb2.Payout) -> Table:
    """One payout: amount, state, terms and run."""
    table = facts()
    table.add("payout", payout.payout_id)
    table.add("restaurant", payout.restaurant_id)
    table.add("amount", _money(payout.amount_minor, payout.currency))
    table.add("state", payout_state(payout.state))
    table.add(
        "pays out by", f"{format_date(payout.as_of)}, cut-off {format_instant(payout.cutoff_at)}"
    )
    table.add("run", payout.payout_run_id)
    if payout.submission_id:
        table.add("submission", payout.submission_id)
    if payout.bank_reference:
        table.add("bank reference", payout.bank_reference)
    if payout.failure_code or payout.failure_text:
        table.add("failure", failure_of(payout))
    return table


def submission_table(response: ledger_pb2.SubmitPayoutsResponse) -> Table:
    """A submission: whether it is new, what it holds, and what it left out."""
    submission = response.submission
    table = facts()
    table.add("submission", submission.submission_id)
    table.add("status", word_of(ledger_pb2.SubmitStatus, response.status))
    if submission.payout_run_id:
        table.add("run", submission.payout_run_id)
    table.add("payouts", str(submission.payouts_count))
    total = _money(submission.total_amount_minor, submission.currency)
    table.add("total", f"more than {total}" if submission.is_capped else total)
    for left_out in submission.left_out:
        table.add("left out", f"{left_out.count} {payout_state(left_out.state)}")
    table.add("created", format_instant(submission.created_at))
    return table


def run_items_table(items: Iterable[ledger_pb2.PayoutRunItem], currency: str) -> Table:
    """A run's decisions, one restaurant a row."""
    titles = ("restaurant", "outcome", "reason", "payout", "available", "kept", currency)
    table = Table(
        titles, right=frozenset(("available", "kept", currency)), optional=("kept", "available")
    )
    for item in items:
        is_paid = item.outcome == ledger_pb2.PAYOUT_RUN_ITEM_OUTCOME_PAYOUT_CREATED
        table.add(
            item.restaurant_id,
            _outcome(item),
            _reason(item.skip_reason) if item.skip_reason else "",
            item.payout_id,
            amount_of(item.available_minor, currency) if item.HasField("available_minor") else "",
            amount_of(item.retained_minor, currency) if item.retained_minor else "",
            amount_of(item.amount_minor, currency) if is_paid else "",
        )
    return table


def json_of_run(run: ledger_pb2.PayoutRun) -> dict[str, JsonValue]:
    """The run by the contract's field names; `skipped` gives the number for each reason."""
    skipped: dict[str, JsonValue] = {
        _reason(skipped.reason): str(skipped.count) for skipped in run.skipped
    }
    return {
        "payout_run_id": run.payout_run_id or None,
        "currency": run.currency,
        "as_of": format_date(run.as_of),
        "cutoff_at": format_instant(run.cutoff_at),
        "min_amount_minor": str(run.min_amount_minor),
        "min_amount": amount_or_none(run.min_amount_minor, run.currency),
        "request_id": run.request_id,
        "state": run_state(run),
        "payouts_created": str(run.payouts_created),
        "total_amount_minor": str(run.total_amount_minor),
        "total_amount": amount_or_none(run.total_amount_minor, run.currency),
        "is_capped": run.is_capped,
        "restaurants_considered": str(run.restaurants_considered),
        "restaurants_total": str(run.restaurants_total),
        "restaurants_named": str(run.restaurants_named),
        "skipped": skipped,
        "created_at": format_instant(run.created_at) if run.HasField("created_at") else None,
        "finished_at": format_instant(run.finished_at) if run.HasField("finished_at") else None,
    }


# Fields that ListPayoutRuns does not fill.
_PROGRESS = (
    "payouts_created",
    "total_amount_minor",
    "total_amount",
    "is_capped",
    "restaurants_considered",
    "restaurants_total",
    "skipped",
)


def json_of_listed_run(run: ledger_pb2.PayoutRun) -> dict[str, JsonValue]:
    """The run as a list has it, which is without its progress."""
    return {name: value for name, value in json_of_run(run).items() if name not in _PROGRESS}


def json_of_run_item(item: ledger_pb2.PayoutRunItem) -> dict[str, JsonValue]:
    """A run's decision about one restaurant, by the contract's field names."""
    return {
        "restaurant_id": item.restaurant_id,
        "outcome": _outcome(item),
        "skip_reason": _reason(item.skip_reason) if item.skip_reason else None,
        "payout_id": item.payout_id or None,
        "amount_minor": str(item.amount_minor),
        "available_minor": str(item.available_minor) if item.HasField("available_minor") else None,
        "retained_minor": str(item.retained_minor) if item.HasField("retained_minor") else None,
    }


def json_of_submission(response: ledger_pb2.SubmitPayoutsResponse) -> dict[str, JsonValue]:
    """The submission by the contract's field names; `left_out` gives the number for each state."""
    submission = response.submission
    left_out: dict[str, JsonValue] = {
        payout_state(left_out.state): str(left_out.count) for left_out in submission.left_out
    }
    return {
        "status": word_of(ledger_pb2.SubmitStatus, response.status),
        "submission_id": submission.submission_id,
        "payout_run_id": submission.payout_run_id or None,
        "currency": submission.currency,
        "payouts_count": str(submission.payouts_count),
        "total_amount_minor": str(submission.total_amount_minor),
        "total_amount": amount_or_none(submission.total_amount_minor, submission.currency),
        "is_capped": submission.is_capped,
        "left_out": left_out,
        "created_at": format_instant(submission.created_at),
    }


def json_of_payout(payout: ledger_pb2.Payout) -> dict[str, JsonValue]:
    """The payout by the contract's field names; items and history only if the response has them."""
    written: dict[str, JsonValue] = {
        "payout_id": payout.payout_id,
        "payout_run_id": payout.payout_run_id,
        "restaurant_id": payout.restaurant_id,
        "currency": payout.currency,
        "amount_minor": str(payout.amount_minor),
        "amount": amount_or_none(payout.amount_minor, payout.currency),
        "as_of": format_date(payout.as_of),
        "cutoff_at": format_instant(payout.cutoff_at),
        "state": payout_state(payout.state),
        "created_at": format_instant(payout.created_at),
        "transaction_id": payout.transaction_id,
        "submission_id": payout.submission_id or None,
        "submitted_at": (
            format_instant(payout.submitted_at) if payout.HasField("submitted_at") else None
        ),
        "answered_at": (
            format_instant(payout.answered_at) if payout.HasField("answered_at") else None
        ),
        "bank_reference": payout.bank_reference or None,
        "failure_code": payout.failure_code or None,
        "failure_text": payout.failure_text or None,
        "retained_minor": str(payout.retained_minor),
        "retained_before_minor": str(payout.retained_before_minor),
    }
    if payout.history:
        written["items"] = [
            {"type": _item_type(item), "amount_minor": str(item.amount_minor)}
            for item in payout.items
        ]
        written["history"] = [
            {
                "state": payout_state(move.state),
                "recorded_at": format_instant(move.recorded_at),
                "event_id": move.event_id or None,
                "transaction_id": move.transaction_id,
                "bank_reference": move.bank_reference or None,
                "failure_code": move.failure_code or None,
                "failure_text": move.failure_text or None,
            }
            for move in payout.history
        ]
    return written
