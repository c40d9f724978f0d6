"""Disputes: the money that was withdrawn and reinstated, by their balance transactions alone.

An inquiry has none. The amount of the dispute is what the customer saw; a balance transaction has
what moved, in the currency of the balance.
"""

from collections.abc import Sequence
from datetime import datetime

from ledger.gateway.deliveries import Fact, FetchFailed, Ignored, Owner, Reading
from ledger.gateway.payloads import Malformed, Payload
from ledger.gateway.processors.stripe.charges import fee_readings
from ledger.gateway.processors.stripe.messages import Message, event_id, id_in
from ledger.gateway.processors.stripe.resources import BalanceTransaction, Resources
from ledger.gateway.reasons import CannotBook
from ledger.v1 import ledger_pb2

_NOT_YET_SECONDS = 60.0
_MOVED = "balance_transactions"
# How a dispute ends whose withdrawn money stays with the customer.
_GONE = ("lost", "charge_refunded", "prevented")


async def read_opened_dispute(message: Message, resources: Resources) -> Sequence[Reading]:
    """charge.dispute.created, which may have the money already, and .funds_withdrawn, which has."""
    moved = await _moved(message, resources)
    if not moved.withdrawn:
        if message.kind.endswith("funds_withdrawn"):
            raise Malformed("the dispute has no balance transaction that withdrew its funds")
        return [Ignored(message.kind, "no money moved, as in an inquiry")]
    return [*moved.opened(), *moved.fees()]


async def read_reinstated_dispute(message: Message, resources: Resources) -> Sequence[Reading]:
    """charge.dispute.funds_reinstated.

    It reports what was withdrawn, too: what never was must not come back.
    """
    moved = await _moved(message, resources)
    if not moved.reinstated:
        raise Malformed("the dispute has no balance transaction that reinstated its funds")
    return [*moved.opened(), *moved.won(), *moved.fees()]


async def read_closed_dispute(message: Message, resources: Resources) -> Sequence[Reading]:
    """charge.dispute.closed: lost, won, settled in between, or an inquiry that came to nothing.

    If money came back, it reports what was withdrawn, too, as above. A part of a lost dispute may
    come back all the same, and is won.
    """
    status = message.resource.text("status")
    moved = await _moved(message, resources)
    if status == "won" and moved.withdrawn and not moved.reinstated:
        moved = await _looked_again(message, resources, moved)
    readings: list[Reading] = list(moved.won())
    left_minor = moved.left_minor
    if status in _GONE and left_minor > 0:
        readings.append(
            moved.fact("lost", ledger_pb2.EVENT_TYPE_DISPUTE_LOST, left_minor, message.created_at)
        )
    if status == "won" and moved.withdrawn and not moved.reinstated:
        # Mostly it comes with the reinstatement, which charge.dispute.funds_reinstated has too.
        readings.append(
            moved.fact("won", ledger_pb2.EVENT_TYPE_DISPUTE_WON, left_minor, message.created_at)
        )
    if not readings and moved.withdrawn:
        raise CannotBook("DISPUTE_UNCLEAR", f"the dispute is {status}, and its money not back")
    if not readings:
        return [Ignored(message.kind, f"the dispute is {status}, and moved no money")]
    return [*(moved.opened() if moved.reinstated else ()), *readings, *moved.fees()]


class _Dispute:
    """A dispute and what moved because of it, the first first."""

    def __init__(
        self,
        message: Message,
        resources: Resources,
        owner: Owner,
        transactions: Sequence[BalanceTransaction],
    ) -> None:
        self.message = message
        self.resources = resources
        self.owner = owner
        ordered = sorted(transactions, key=lambda moved: (moved.created_at, moved.id))
        self.withdrawn = [moved for moved in ordered if moved.amount_minor < 0]
        self.reinstated = [moved for moved in ordered if moved.amount_minor > 0]
        self.only_fees = [moved for moved in ordered if moved.amount_minor == 0]
        if len({moved.currency for moved in ordered}) > 1:
            raise Malformed("the dispute's balance transactions are in several currencies")

    @property
    def left_minor(self) -> int:
        return -sum(moved.amount_minor for moved in (*self.withdrawn, *self.reinstated))

    def opened(self) -> list[Reading]:
        """The withdrawal; a second one, after a reinstatement, opens the dispute again."""
        return [
            self.fact(
                _step("opened", number, moved),
                ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
                -moved.amount_minor,
                moved.created_at,
                dispute_fee_minor=max(self._fee_minor(moved), 0),
            )
            for number, moved in enumerate(self.withdrawn)
        ]

    def won(self) -> list[Reading]:
        """The reinstatement, and the dispute's fee if that came back with it."""
        facts: list[Reading] = []
        for number, moved in enumerate(self.reinstated):
            facts.append(
                self.fact(
                    _step("won", number, moved),
                    ledger_pb2.EVENT_TYPE_DISPUTE_WON,
                    moved.amount_minor,
                    moved.created_at,
                )
            )
            if self._fee_minor(moved) < 0:
                facts.append(self._fee_refund(_step("fee_refunded", number, moved), moved))
        return facts

    def fees(self) -> list[Reading]:
        """Fees that came without money, or with money that came back: for answering a dispute."""
        facts: list[Reading] = []
        for moved in (*self.reinstated, *self.only_fees):
            if self._fee_minor(moved) > 0:
                facts += fee_readings(
                    self.message,
                    self.resources,
                    moved,
                    name=event_id(moved.id, "fee"),
                    owner=self.owner,
                    reference=self.message.resource.text("id"),
                    charge=self._charge,
                )
            elif moved in self.only_fees and self._fee_minor(moved) < 0:
                facts.append(self._fee_refund(f"fee_refunded:{moved.id}", moved))
        return facts

    def fact(
        self,
        step: str,
        kind: ledger_pb2.EventType.ValueType,
        amount_minor: int,
        occurred_at: datetime,
        *,
        dispute_fee_minor: int = 0,
    ) -> Fact:
        dispute = self.message.resource
        moved = (*self.withdrawn, *self.reinstated, *self.only_fees)
        return Fact(
            event_id=event_id(dispute.text("id"), step),
            type=kind,
            amount_minor=amount_minor,
            currency=moved[0].currency,
            occurred_at=occurred_at,
            owner=self.owner,
            reference=dispute.text("id"),
            dispute_fee_minor=dispute_fee_minor,
            charge=self._charge,
            metadata={
                "stripe_charge": id_in(dispute, "charge"),
                "stripe_event": self.message.stripe_event_id,
                "stripe_reason": dispute.text("reason", ""),
            },
        )

    @property
    def _charge(self) -> str:
        """The event id of its charge; empty if it names none."""
        charge_id = id_in(self.message.resource, "charge")
        return event_id(charge_id) if charge_id else ""

    def _fee_minor(self, moved: BalanceTransaction) -> int:
        return self.resources.fees(moved).processor_minor

    def _fee_refund(self, step: str, moved: BalanceTransaction) -> Fact:
        return self.fact(
            step,
            ledger_pb2.EVENT_TYPE_DISPUTE_FEE_REFUNDED,
            -self._fee_minor(moved),
            moved.created_at,
        )


def _step(word: str, number: int, moved: BalanceTransaction) -> str:
    return word if number == 0 else f"{word}:{moved.id}"


async def _moved(message: Message, resources: Resources) -> _Dispute:
    """What moved by the message, or by the API if the message does not have it."""
    dispute = message.resource
    listed = dispute.values.get(_MOVED)
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        if resources.fetcher is None:
            raise Malformed("the dispute has no balance transactions: a list, empty for an inquiry")
        dispute = await resources.fetch(message, "dispute", dispute.text("id"))
    return await _dispute(message, resources, dispute)


async def _looked_again(message: Message, resources: Resources, moved: _Dispute) -> _Dispute:
    """A dispute that was won, with its reinstatement, which may be made after the message."""
    if resources.fetcher is None:
        return moved
    current = await resources.fetch(message, "dispute", message.resource.text("id"))
    looked = await _dispute(message, resources, current)
    if not looked.reinstated:
        raise FetchFailed("the funds are not reinstated yet", retry_after_seconds=_NOT_YET_SECONDS)
    return looked


async def _dispute(message: Message, resources: Resources, dispute: Payload) -> _Dispute:
    return _Dispute(
        message,
        resources,
        await resources.owner(message, message.resource),
        [resources.transaction(moved) for moved in dispute.children(_MOVED)],
    )
