"""What a processor's module reads out of deliveries, as lines of text."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime

from hypothesis import strategies as st

from ledger.gateway.deliveries import Delivery, Fact, Ignored, Reading
from ledger.v1 import ledger_pb2

# Any JSON that is not large.
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
# Fields of a fact that a line leaves out where they have their default.
_EXTRAS = (
    "commission_minor",
    "dispute_fee_minor",
    "processor_fee_minor",
    "available_at",
    "reverses",
    "payout_id",
    "said_by_owner",
    "bank_reference",
    "failure_code",
    "failure_text",
)
_DEFAULTS = {field.name: field.default for field in fields(Fact)}


def lines_of(readings: Sequence[Reading]) -> list[str]:
    """A line for each reading, in order.

    CHARGE_SUCCEEDED 1250 EUR · adyen:P1:CAPTURE · P0
    IGNORED CAPTURE alert
    UNBOOKABLE NEW_CODE UNKNOWN_EVENT_CODE
    """
    return [line_of(reading) for reading in readings]


def line_of(reading: Reading) -> str:
    """See lines_of. What is not the default of a fact follows, as `reverses=adyen:P1:CAPTURE`."""
    if isinstance(reading, Ignored):
        return f"IGNORED {reading.kind}{' alert' if reading.is_alert else ''}"
    if not isinstance(reading, Fact):
        return f"UNBOOKABLE {reading.kind} {reading.reason}".replace("  ", " ")
    kind = ledger_pb2.EventType.Name(reading.type).removeprefix("EVENT_TYPE_")
    parts = [
        f"{kind} {reading.amount_minor} {reading.currency}",
        reading.event_id,
        reading.reference,
        *(
            f"{name}={_plain(getattr(reading, name))}"
            for name in _EXTRAS
            if getattr(reading, name) != _DEFAULTS[name]
        ),
    ]
    return " · ".join(part for part in parts if part)


def _plain(value: object) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else str(value)


def compared_fields(fact: Fact) -> tuple[object, ...]:
    """What the ledger compares when the fact's id comes again, and whose it is."""
    return tuple(
        getattr(fact, field.name) for field in fields(Fact) if field.name not in ("metadata",)
    )


def delivery_of(
    body: bytes,
    *,
    headers: dict[str, str] | None = None,
    query: str = "",
    received_at: datetime = datetime(2026, 6, 1, 12, tzinfo=UTC),
) -> Delivery:
    """A post that came on 2026-06-01 at noon, UTC."""
    return Delivery(body=body, headers=headers or {}, query=query, received_at=received_at)
