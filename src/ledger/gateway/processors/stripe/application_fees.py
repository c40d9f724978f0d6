"""Application fees, which are the platform's commission, given back to a restaurant."""

from collections.abc import Sequence

from ledger.gateway.deliveries import Fact, Ignored, Owner, Reading
from ledger.gateway.processors.stripe.messages import Message, event_id, id_in, instant
from ledger.gateway.processors.stripe.resources import Resources
from ledger.gateway.processors.stripe.sums import newest_refunds
from ledger.gateway.reasons import CannotBook
from ledger.v1 import ledger_pb2


async def read_refunded_application_fee(
    message: Message, resources: Resources
) -> Sequence[Reading]:
    """application_fee.refunded: the fee, with the sum of its refunds and each of them.

    Only where the commission is the application fee: else the restaurant was charged another one.
    """
    fee = message.resource
    if resources.endpoint.fees.commission != "processor":
        return [Ignored(message.kind, "the commission is not the application fee")]
    new = newest_refunds(fee, message.previous)
    if new is None:
        raise CannotBook("REFUND_UNKNOWN", "the message does not name the refund of the fee")
    charge_id = id_in(fee, "charge")
    readings: list[Reading] = []
    for refund in new:
        # In the fee's currency, which is that of its refunds.
        amount_minor, currency = resources.counted(refund.integer("amount"), fee.text("currency"))
        readings.append(
            Fact(
                event_id=event_id(refund.text("id")),
                type=ledger_pb2.EVENT_TYPE_FEE_REFUNDED,
                amount_minor=amount_minor,
                currency=currency,
                occurred_at=instant(refund, "created"),
                owner=Owner(
                    account=id_in(fee, "account") or message.account,
                    metadata=refund.texts("metadata"),
                ),
                reference=charge_id,
                charge=event_id(charge_id) if charge_id else "",
                metadata={"stripe_event": message.stripe_event_id},
            )
        )
    return readings
