"""What the call log says of a call: by method, from its request and its answer. Short, and never the caller's own words."""

from collections.abc import Callable, Mapping
from typing import Any

from ledger.domain.fields import is_id
from ledger.domain.restaurants import CHANGEABLE_FIELDS
from ledger.v1 import ledger_pb2

What = Mapping[str, str | int | bool]
_LENGTH_SHOWN = 128


def _event(request: ledger_pb2.IngestEventRequest, _: object) -> What:
    return {"event_id": _shown(request.event.event_id)}


def _batch(events: int, response: ledger_pb2.BatchIngestEventsResponse | None) -> What:
    if response is None:
        return {"events": events}
    return {
        "events": events,
        "refused": sum(result.HasField("error") for result in response.results),
    }


def _restaurant(request: ledger_pb2.PutRestaurantRequest, _: object) -> What:
    return {"restaurant_id": _shown(request.restaurant_id)}


def _restaurant_change(request: ledger_pb2.UpdateRestaurantRequest, _: object) -> What:
    # Which field, but no key of the metadata: that is the caller's own word.
    changed = {path.partition(".")[0] for path in request.update_mask.paths}
    return {
        "restaurant_id": _shown(request.restaurant.restaurant_id),
        "changed": ",".join(sorted(changed & CHANGEABLE_FIELDS)),
    }


def _payout_run(
    request: ledger_pb2.RunPayoutsRequest, response: ledger_pb2.RunPayoutsResponse | None
) -> What:
    as_of = request.as_of
    what: dict[str, str | int | bool] = {
        "currency": _shown(request.currency),
        "as_of": f"{as_of.year:04}-{as_of.month:02}-{as_of.day:02}",
        "min_amount_minor": request.min_amount_minor,
        "request_id": _shown(request.request_id),
        "dry_run": request.dry_run,
    }
    return (
        what if response is None else {**what, "payout_run_id": response.payout_run.payout_run_id}
    )


def _canceled_run(request: ledger_pb2.CancelPayoutRunRequest, _: object) -> What:
    return {"payout_run_id": _shown(request.payout_run_id)}


# The methods that write, each with what is said of it, from what is kept of its request. A stream's
# events are counted as they pass.
WHAT_BY_METHOD: Mapping[str, Callable[[Any, Any], What]] = {
    "IngestEvent": _event,
    "BatchIngestEvents": _batch,
    "StreamEvents": lambda _, __: {},
    "RunPayouts": _payout_run,
    "CancelPayoutRun": _canceled_run,
    "PutRestaurant": _restaurant,
    "UpdateRestaurant": _restaurant_change,
}
# What is kept of a request until then, where all of it would be too much.
KEPT_BY_METHOD: Mapping[str, Callable[[Any], Any]] = {
    "BatchIngestEvents": lambda request: len(request.events)
}
# Those whose answer waits for the log: they are few, and what they do is nowhere else told with who did it.
WRITTEN_BEFORE_THE_ANSWER = frozenset(
    {"RunPayouts", "CancelPayoutRun", "PutRestaurant", "UpdateRestaurant"}
)


def _shown(text: str) -> str:
    """An id as it is; of anything else so much as helps to find the caller."""
    return text if is_id(text) else text[:_LENGTH_SHOWN].encode("unicode_escape").decode()
