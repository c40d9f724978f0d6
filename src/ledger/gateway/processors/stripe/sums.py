"""Sums of refunds: which refunds a message adds to the sum before."""

from collections.abc import Iterable, Sequence

from ledger.gateway.payloads import Payload

# Refunds that came to nothing are not in the sum.
ENDED_WITHOUT = ("failed", "canceled")


def newest_refunds(charge: Payload, previous: Payload) -> Sequence[Payload] | None:
    """The refunds that are new in a charge or an application fee; None: it does not say."""
    if not charge.has("refunds"):
        return None
    # A list in versions before 2014.
    is_plain = isinstance(charge.values["refunds"], list)
    listed = charge.children("refunds") if is_plain else charge.child("refunds").children("data")
    left = charge.integer("amount_refunded") - previous.integer("amount_refunded", 0)
    new: list[Payload] = []
    for refund in _by_age(listed):
        if left <= 0:
            break
        new.append(refund)
        left -= refund.integer("amount")
    return new if left == 0 and new else None


def _by_age(refunds: Iterable[Payload]) -> list[Payload]:
    """The newest first; those that came to nothing are not in the charge's sum."""
    counted = [
        refund for refund in refunds if refund.text("status", "succeeded") not in ENDED_WITHOUT
    ]
    return sorted(counted, key=lambda refund: refund.integer("created"), reverse=True)
