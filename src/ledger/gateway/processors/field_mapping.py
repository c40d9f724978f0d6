"""Facts by a mapping in the settings: for processors whose payloads no module here knows.

    [endpoints.fields]
    event_id = ["data.payment", "type"]          acme:pay_17:payment.paid
    type = "type"
    amount = "data.amount"
    currency = "data.currency"
    occurred_at = "data.paid_at"
    restaurant = "data.merchant.id"

    [endpoints.fields.types]
    "payment.paid" = "charge_succeeded"

A path is names and numbers of places in arrays, with points between: `data.items.0.id`. A name that
has a point itself is written as a JSON pointer: `/data/a.b/0`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ledger.domain.money import is_currency
from ledger.gateway.amounts import minor_units, minor_units_of_major, processor_exponent
from ledger.gateway.deliveries import Fact, Ignored, Owner, Reading, Unbookable
from ledger.gateway.endpoints import EndpointBase, Table
from ledger.gateway.payloads import Malformed, Payload, is_unicode, parse
from ledger.v1 import ledger_pb2

_PREFIX = "EVENT_TYPE_"
# Names of event types in settings: those of the contract, in lower case.
EVENT_TYPES: Mapping[str, "ledger_pb2.EventType.ValueType"] = {
    name.removeprefix(_PREFIX).lower(): number
    for name, number in ledger_pb2.EventType.items()
    if number
}
# A delivery of more facts is no delivery of a webhook.
FACTS_MAX = 1000
_DIGITS = re.compile("-?[0-9]{1,19}")
_DECIMAL = re.compile("-?[0-9]{1,19}([.][0-9]{1,9})?")
_PLATFORM_TYPES = ("processor_settled", "processor_settlement_debited")


def _checked_path(path: str) -> str:
    if not path or any(not step for step in steps_of(path)):
        raise ValueError(f"{path!r} is no path, such as data.payment.id")
    return path


def _several(paths: object) -> object:
    return [paths] if isinstance(paths, str) else paths


def _checked_type(name: str) -> str:
    if name not in EVENT_TYPES:
        raise ValueError(f"{name!r} is no event type; they are {', '.join(EVENT_TYPES)}")
    return name


Path = Annotated[str, AfterValidator(_checked_path)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_several)]
EventTypeName = Annotated[str, AfterValidator(_checked_type)]


class FieldMapping(Table):
    """Where in the JSON each field of a fact is."""

    facts: Path | None = Field(
        None, description="An array of facts, in which the other paths begin. None: one fact."
    )
    event_id: Paths = Field(
        min_length=1,
        description="What names the business fact, joined by colons: the payment and what happened"
        " to it, not the id of the delivery.",
    )
    event_id_prefix: str | None = Field(
        None, description="What the event id begins with. None: the endpoint's name and a colon."
    )
    type: Path = Field(description="What happened; `types` says what that is in the ledger.")
    types: Mapping[str, EventTypeName] = Field(
        min_length=1,
        description="Event types by what `type` finds. Anything else moves no money, and is"
        " counted.",
    )
    only: Mapping[Path, Annotated[tuple[str, ...], BeforeValidator(_several)]] = Field(
        default_factory=dict,
        description="Values that a path must have, else the fact moves no money: its status.",
    )
    live: Path | None = Field(None, description="Whether it is live or a test.")
    live_value: str = Field("true", description="What `live` finds if it is live.")
    amount: Path
    amount_unit: Literal["minor", "major"] = Field(
        "minor", description="minor: 1250 is 12.50 PEN. major: 12.50, a number or a text."
    )
    absolute: bool = Field(False, description="Whether amounts below zero count without the sign.")
    currency: Path | None = None
    fixed_currency: str = Field("", description="The currency of all amounts, if none is named.")
    occurred_at: Path
    occurred_at_format: Literal["iso8601", "unix_seconds", "unix_milliseconds", "rfc2822"] = (
        "iso8601"
    )
    restaurant: Path | None = Field(
        None, description="What the table `restaurant` looks up, by account, store or reference."
    )
    metadata: Path | None = Field(
        None, description="An object of texts: a restaurant or a commission may be in it."
    )
    reference: Path | None = None
    commission: Path | None = Field(None, description="The platform's commission, in its unit.")
    processor_fee: Path | None = Field(None, description="What the processor charges.")
    dispute_fee: Path | None = Field(None, description="What the processor charges for a dispute.")
    available_at: Path | None = None
    charge: Paths | None = Field(
        None, description="What the event id of the fact's charge is made of, as `event_id`."
    )
    payout_id: Path | None = None
    bank_reference: Path | None = None
    failure_code: Path | None = None
    failure_text: Path | None = None

    @model_validator(mode="after")
    def _has_a_currency(self) -> "FieldMapping":
        if (self.currency is None) == (not self.fixed_currency):
            raise ValueError("needs either currency, a path, or fixed_currency")
        if self.fixed_currency and not is_currency(self.fixed_currency):
            raise ValueError(f"fixed_currency: {self.fixed_currency!r} is no currency")
        return self


class MappedEndpoint(EndpointBase):
    """An endpoint whose facts are mapped by its settings."""

    fields: FieldMapping

    @model_validator(mode="after")
    def _finds_restaurants(self) -> "MappedEndpoint":
        by = self.restaurant.by
        if by == "metadata" and self.fields.metadata is None:
            raise ValueError("restaurant by metadata needs fields.metadata, a path")
        if by not in ("metadata", "fixed") and self.fields.restaurant is None:
            raise ValueError(f"restaurant by {by} needs fields.restaurant, a path")
        return self


def read_mapped(body: bytes, endpoint: MappedEndpoint) -> Sequence[Reading]:
    """The facts of a body. Never raises: what cannot be read is Unbookable."""
    try:
        payload = parse(body)
        readings = [_reading(fact, endpoint) for fact in _facts(payload, endpoint.fields.facts)]
    except Malformed as malformed:
        return [Unbookable("?", "UNKNOWN_SHAPE", str(malformed))]
    return readings or [Ignored("?", "there are no facts in it")]


def steps_of(path: str) -> list[str]:
    """The names of a path, from the outside."""
    if path.startswith("/"):
        return [step.replace("~1", "/").replace("~0", "~") for step in path[1:].split("/")]
    return path.split(".")


def _facts(payload: Payload, path: str | None) -> Iterator[Payload]:
    if path is None:
        yield payload
        return
    listed = _at(payload, path)
    if not isinstance(listed, list) or len(listed) > FACTS_MAX:
        raise Malformed(f"{path} must be an array of at most {FACTS_MAX}")
    for number, element in enumerate(listed):
        if not isinstance(element, dict):
            raise Malformed(f"{path}.{number} must be an object")
        yield Payload(element, f"{path}.{number}")


def _reading(fact: Payload, endpoint: MappedEndpoint) -> Reading:
    fields = endpoint.fields
    kind = "?"
    try:
        kind = _text(fact, fields.type)
        event_type = fields.types.get(kind)
        if event_type is None:
            return Ignored(kind[:64], "its type is not in the table")
        for path, wanted in fields.only.items():
            if _text(fact, path) not in wanted:
                return Ignored(kind[:64], f"its {path} is not one that counts")
        if fields.live is not None:
            is_live = _text(fact, fields.live) == fields.live_value
            if is_live != (endpoint.mode == "live"):
                return Unbookable(kind[:64], "WRONG_MODE", f"the endpoint is {endpoint.mode}")
        return _fact(fact, endpoint, event_type)
    except Malformed as malformed:
        return Unbookable(kind[:64], "UNKNOWN_SHAPE", str(malformed))


def _fact(fact: Payload, endpoint: MappedEndpoint, event_type: str) -> Reading:
    fields = endpoint.fields
    currency = fields.fixed_currency or _text(fact, _required(fields.currency)).upper()

    def amount(path: str | None) -> int | None:
        if path is None or _at(fact, path) is None:
            return None
        return _amount(fact, path, currency, endpoint)

    amount_minor = amount(fields.amount)
    if amount_minor is None:
        raise Malformed(f"{fields.amount} is missing")
    if amount_minor == 0:
        return Ignored(_text(fact, fields.type)[:64], "its amount is 0")
    if amount_minor < 0:
        raise Malformed(f"{fields.amount} is below zero; see `absolute`")
    whose = _optional(fact, fields.restaurant)
    metadata = _at(fact, fields.metadata) if fields.metadata is not None else None
    charge = _charge(fact, endpoint, is_needed=event_type == "charge_reversed")
    return Fact(
        event_id=_joined(fact, fields.event_id, endpoint),
        type=EVENT_TYPES[event_type],
        amount_minor=amount_minor,
        currency=currency,
        occurred_at=_instant(fact, fields.occurred_at, fields.occurred_at_format),
        owner=Owner(
            account=whose,
            store=whose,
            reference=whose,
            metadata=Payload({"metadata": metadata}).texts("metadata"),
        ),
        of_platform=event_type in _PLATFORM_TYPES,
        reference=_optional(fact, fields.reference),
        commission_minor=amount(fields.commission),
        dispute_fee_minor=amount(fields.dispute_fee) or 0,
        processor_fee_minor=amount(fields.processor_fee) or 0,
        available_at=(
            _instant(fact, fields.available_at, fields.occurred_at_format)
            if fields.available_at is not None and _at(fact, fields.available_at) is not None
            else None
        ),
        charge=charge,
        reverses=charge if event_type == "charge_reversed" else "",
        payout_id=_optional(fact, fields.payout_id),
        bank_reference=_optional(fact, fields.bank_reference),
        failure_code=_optional(fact, fields.failure_code),
        failure_text=_optional(fact, fields.failure_text),
    )


def _charge(fact: Payload, endpoint: MappedEndpoint, *, is_needed: bool) -> str:
    """The event id of the fact's charge; empty for a fact that names none, as a charge itself."""
    paths = endpoint.fields.charge
    if paths is None or (not is_needed and all(_at(fact, path) is None for path in paths)):
        return ""
    return _joined(fact, paths, endpoint)


def _required(path: str | None) -> str:
    if path is None:
        raise Malformed("the settings name no path")
    return path


def _joined(fact: Payload, paths: Sequence[str], endpoint: MappedEndpoint) -> str:
    prefix = endpoint.fields.event_id_prefix
    parts = [_text(fact, path) for path in paths]
    if not all(parts):
        raise Malformed(f"{paths[parts.index('')]} is empty")
    return (f"{endpoint.name}:" if prefix is None else prefix) + ":".join(parts)


def _amount(fact: Payload, path: str, currency: str, endpoint: MappedEndpoint) -> int:
    value: Any = _at(fact, path)
    is_minor = endpoint.fields.amount_unit == "minor"
    if isinstance(value, str) and (_DIGITS if is_minor else _DECIMAL).fullmatch(value):
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise Malformed(f"{path} must be an amount in {endpoint.fields.amount_unit} units")
    if endpoint.fields.absolute:
        # abs() would round a decimal.
        value = value.copy_abs() if isinstance(value, Decimal) else abs(value)
    if not is_minor:
        return minor_units_of_major(Decimal(value), currency)
    # A whole number may be written with a point: 1250.0. Nothing longer is an amount.
    if isinstance(value, Decimal):
        if not value.is_finite() or value.adjusted() > 18 or value != value.to_integral_value():
            raise Malformed(f"{path} must be a whole number of minor units")
        value = int(value)
    return minor_units(value, currency, processor_exponent(currency, {}, endpoint.exponents))


def _instant(fact: Payload, path: str, form: str) -> datetime:
    text = _text(fact, path)
    try:
        if form in ("unix_seconds", "unix_milliseconds"):
            if _DECIMAL.fullmatch(text) is None:
                raise ValueError("no number")
            seconds = Decimal(text) / (1000 if form == "unix_milliseconds" else 1)
            whole = int(seconds)
            microseconds = int((seconds - whole) * 1_000_000)
            return datetime.fromtimestamp(whole, UTC).replace(microsecond=microseconds)
        parse_text = parsedate_to_datetime if form == "rfc2822" else datetime.fromisoformat
        found = parse_text(text)
        if found.tzinfo is None:
            raise ValueError("no offset")
        return found.astimezone(UTC)
    except (ValueError, OverflowError, OSError, TypeError, IndexError) as error:
        raise Malformed(f"{path} is no instant of the form {form}, with an offset") from error


def _optional(fact: Payload, path: str | None) -> str:
    if path is None or _at(fact, path) is None:
        return ""
    return _text(fact, path)


def _text(fact: Payload, path: str) -> str:
    value = _at(fact, path)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, str) and is_unicode(value):
        return value
    raise Malformed(f"{path} must be a text; it {'is missing' if value is None else 'is not'}")


def _at(fact: Payload, path: str) -> object:
    """What is at a path; None if there is nothing."""
    value: object = fact.values
    for step in steps_of(path):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdecimal() and len(step) <= 6:
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value
