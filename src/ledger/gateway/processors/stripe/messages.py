"""Stripe's envelope, and the fields that its resources share."""

from dataclasses import dataclass
from datetime import UTC, datetime

from ledger.domain.fields import is_id
from ledger.gateway.payloads import Malformed, Payload

_SECONDS_MAX = 4_102_444_800  # The year 2100: later instants are no instants of payments.


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One Event. `resource` is what it is about; `previous` has what changed, as it was before.

    `account` is the connected account; empty: the platform's own.
    """

    kind: str
    stripe_event_id: str
    account: str
    is_live: bool
    created_at: datetime
    resource: Payload
    previous: Payload


# A charge as GET returns it, signed in place of an Event, reports all that its first Event did. The
# others are of no use alone: they have no mode, or their facts the time of the Event.
_KIND_OF_RESOURCE = {"charge": "charge.succeeded"}


def message_of(body: Payload) -> Message:
    """The message in a body. Raises Malformed: thin events and all that is no Event."""
    what = body.text("object", "event")
    if what in _KIND_OF_RESOURCE:
        return Message(
            kind=_KIND_OF_RESOURCE[what],
            stripe_event_id="",
            account="",
            is_live=body.flag("livemode"),
            created_at=instant(body, "created"),
            resource=body,
            previous=Payload({}),
        )
    if what != "event":
        raise Malformed(f"object is {what[:64]!r}: only events with their data can be read")
    contents = body.child("data")
    account = body.text("account", "")
    # It becomes a header of requests to the API.
    if account and not is_id(account):
        raise Malformed(f"account is {account[:64]!r}, which is no account id")
    return Message(
        kind=body.text("type"),
        stripe_event_id=body.text("id", ""),
        account=account,
        is_live=body.flag("livemode"),
        created_at=instant(body, "created"),
        resource=contents.child("object"),
        previous=(
            contents.child("previous_attributes")
            if contents.has("previous_attributes")
            else Payload({})
        ),
    )


def instant(payload: Payload, name: str) -> datetime:
    """Seconds since 1970 as an instant. Raises Malformed."""
    seconds = payload.integer(name)
    if not 0 <= seconds <= _SECONDS_MAX:
        raise Malformed(f"{name} is {seconds if abs(seconds) < 10**18 else 'no'} seconds")
    return datetime.fromtimestamp(seconds, UTC)


def id_in(payload: Payload, name: str) -> str:
    """The id of another resource, which may be expanded; empty if there is none."""
    if isinstance(payload.values.get(name), dict):
        return payload.child(name).text("id")
    return payload.text(name, "")


def event_id(resource_id: str, *step: str) -> str:
    """The ledger's event id of a fact about a resource. Raises Malformed."""
    name = ":".join(("stripe", resource_id, *step))
    if not resource_id or not is_id(name):
        raise Malformed(f"id is {resource_id[:64]!r}, which cannot be part of an event id")
    return name
