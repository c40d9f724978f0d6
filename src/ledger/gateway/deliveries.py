"""What comes in by HTTP, and what a processor's module makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from ledger.v1 import ledger_pb2


@dataclass(frozen=True, slots=True)
class Delivery:
    """One HTTP post as it came: nothing is decoded yet, since the signature covers these bytes.

    The names of `headers` are in lower case; `query` is what follows the question mark.
    """

    body: bytes
    headers: Mapping[str, str]
    query: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What a delivery says of whose money it is. The endpoint's mapping makes a restaurant of it.

    `account` is the connected or merchant account, `store` the processor's store, `reference` the
    merchant's own reference of the payment. Empty: the delivery does not say.
    """

    account: str = ""
    store: str = ""
    reference: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One business fact to book. Its fields are those of `ProcessorEvent`, checked by the ledger.

    `event_id` names the fact and not the delivery, so every delivery of the fact has the same one.
    `commission_minor` is the platform's commission by the processor's own word; None: it says
    nothing, and the endpoint's fee policy decides. `charge` is the event id of the charge that the
    fact is about, where it is known: if the delivery does not say whose money it is, it is that
    charge's. `reverses` is the event id of the charge that this fact takes back: the commission of
    that charge goes back in proportion. A fact `of_platform` belongs to no restaurant. `may_change`
    names fields that the processor may tell otherwise later: the first report stands, and a report
    that differs in nothing else is a duplicate. A fact about a payout that is `said_by_owner` is
    booked only if the payout is of the owner's restaurant: the account itself chose the payout id.
    """

    event_id: str
    # In quotes: only type checkers see it.
    type: "ledger_pb2.EventType.ValueType"
    amount_minor: int
    currency: str
    occurred_at: datetime
    owner: Owner = Owner()
    of_platform: bool = False
    reference: str = ""
    commission_minor: int | None = None
    # On a dispute: what the processor charges for it, borne by the restaurant.
    dispute_fee_minor: int = 0
    processor_fee_minor: int = 0
    available_at: datetime | None = None
    charge: str = ""
    reverses: str = ""
    payout_id: str = ""
    said_by_owner: bool = False
    bank_reference: str = ""
    failure_code: str = ""
    failure_text: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    may_change: frozenset[str] = frozenset({"occurred_at", "available_at", "reference"})


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message that moves no money: answered, counted by `kind`, and forgotten.

    `kind` is the processor's name of the message, for example `charge.pending`. With `is_alert`
    people should look at it: a capture was refused.
    """

    kind: str
    why: str
    is_alert: bool = False


@dataclass(frozen=True, slots=True)
class Unbookable:
    """A message, correctly signed, that cannot become a fact: it goes to the quarantine.

    `reason` is a word of [A-Z_], for example UNKNOWN_SHAPE; `detail` says what to mend.
    """

    kind: str
    reason: str
    detail: str


Reading = Fact | Ignored | Unbookable


class SignatureRefused(Exception):
    """The delivery is not proven to be the processor's. The text is for our log, not the caller.

    `status` is the HTTP status that the processor expects.
    """

    def __init__(self, why: str, *, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


class FetchFailed(Exception):
    """What a delivery refers to cannot be had now: the delivery is parked and tried again.

    `retry_after_seconds` is how long the other side asks to wait; None: it does not say. `readings`
    are facts that are known already: they are booked at once, and the delivery is parked all the
    same. The next try reports them again.
    """

    def __init__(
        self,
        why: str,
        *,
        retry_after_seconds: float | None = None,
        readings: Sequence[Reading] = (),
    ) -> None:
        super().__init__(why)
        self.retry_after_seconds = retry_after_seconds
        self.readings = readings


class Processor(Protocol):
    """One endpoint's processor. Made once; it has no state but the endpoint's settings."""

    # What a response of 200 says, and its content type.
    acknowledgement: bytes
    content_type: str

    def verify(self, delivery: Delivery) -> str:
        """The name of the secret that signed it. Raises SignatureRefused."""
        ...

    async def read(self, delivery: Delivery) -> Sequence[Reading]:
        """What a verified delivery reports, in its order; at least one reading.

        It is also called for a delivery from the quarantine, whose signature may be out of date.
        Never raises for what is in the body: that is Unbookable. Raises FetchFailed.
        """
        ...


@runtime_checkable
class ReadsResources(Protocol):
    """A processor whose deliveries only name a resource, which is fetched."""

    def read_resource(self, body: bytes) -> Sequence[Reading] | None:
        """What a resource becomes that a person fetched; None: the body is no resource.

        Only for explanations: a delivery's body that no signature covers is never read so.
        """
        ...
