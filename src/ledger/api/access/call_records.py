"""What the call log records of a call's content, by method, from its request and response.

It is short: of the caller's texts it has only ids and codes, cut off and escaped if invalid.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ledger.domain.fields import is_id
from ledger.domain.restaurants import CHANGEABLE_FIELDS
from ledger.v1 import ledger_pb2

Content = Mapping[str, str | int | bool]
_LENGTH_SHOWN = 128


def _event(request: ledger_pb2.IngestEventRequest, _: object) -> Content:
    return {"event_id": _shown(request.event.event_id)}


def _batch(events: int, response: ledger_pb2.BatchIngestEventsResponse | None) -> Content:
    if response is None:
        return {"events": events}
    return {
        "events": events,
        "refused": sum(result.HasField("error") for result in response.results),
    }


def _restaurant(request: ledger_pb2.PutRestaurantRequest, _: object) -> Content:
    return {"restaurant_id": _shown(request.restaurant_id)}


def _restaurant_change(request: ledger_pb2.UpdateRestaurantRequest, _: object) -> Content:
    # Names of fields, but no keys of metadata: callers choose those.
    changed = {path.partition(".")[0] for path in request.update_mask.paths}
    return {
        "restaurant_id": _shown(request.restaurant.restaurant_id),
        "changed": ",".join(sorted(changed & CHANGEABLE_FIELDS)),
    }


def _payout_run(
    request: ledger_pb2.RunPayoutsRequest, response: ledger_pb2.RunPayoutsResponse | None
) -> Content:
    as_of = request.as_of
    content: dict[str, str | int | bool] = {
        "currency": _shown(request.currency),
        "as_of": f"{as_of.year:04}-{as_of.month:02}-{as_of.day:02}",
        "min_amount_minor": request.min_amount_minor,
        "request_id": _shown(request.request_id),
        "dry_run": request.dry_run,
    }
    if response is not None:
        content["payout_run_id"] = response.payout_run.payout_run_id
    return content


def _canceled_run(request: ledger_pb2.CancelPayoutRunRequest, _: object) -> Content:
    return {"payout_run_id": _shown(request.payout_run_id)}


@dataclass(frozen=True, slots=True)
class ContentRule:
    """How to get the content of a call's record.

    `describe` takes what was kept of the request, and the response or None. `keep` is what to keep
    of the request until then; None: all of it.
    """

    describe: Callable[[Any, Any], Content]
    keep: Callable[[Any], Any] | None = None


# One for each method that the call log records. The events of a stream are counted as they pass.
CONTENT_BY_METHOD: Mapping[str, ContentRule] = {
    "IngestEvent": ContentRule(_event),
    # The whole request would take too much memory.
    "BatchIngestEvents": ContentRule(_batch, keep=lambda request: len(request.events)),
    "StreamEvents": ContentRule(lambda _, __: {}),
    "RunPayouts": ContentRule(_payout_run),
    "CancelPayoutRun": ContentRule(_canceled_run),
    "PutRestaurant": ContentRule(_restaurant),
    "UpdateRestaurant": ContentRule(_restaurant_change),
}


def _shown(text: str) -> str:
    """An id unchanged. Of any other text the beginning, with escapes: enough to find the caller."""
    return text if is_id(text) else text[:_LENGTH_SHOWN].encode("unicode_escape").decode()
