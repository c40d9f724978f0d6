"""Stripe: what each of its webhooks is in the ledger.

An event id names the fact, so every message about it must report the same fields, or the second
one would be a conflict. Each fact therefore takes its fields from where all messages have them:

    fact                      event id                     amount               occurred_at
    charge                    stripe:<charge>              what was captured    charge.created
    Stripe's fee              stripe:<charge>:fee          of its balance transaction, both
    charge that failed later  stripe:<charge>:failed       what was captured    the message
    refund                    stripe:<refund>              refund.amount        refund.created
    refund that failed        stripe:<refund>:failed       refund.amount        refund.created
    dispute opened, won       stripe:<dispute>:opened|won  of its balance transaction, both
    dispute lost              stripe:<dispute>:lost        what is not back     the message
    payout paid, failed       stripe:<payout>:paid|failed  payout.amount        the message

"The message" is Event.created, which all deliveries of an Event share: only one kind of Event
reports such a fact. An instant that is not exact, such as the creation of a refund that failed a
week later, is better than a conflict.

A refund that failed is reported with its failure, a dispute whose money came back with its opening,
and a charge that failed after it succeeded too: together they are nothing, whatever came before.

A charge never carries Stripe's fee, though a message may know it: others that come first do not.
The fee is a fact of its own, from whichever message or answer of the API has the balance
transaction.
"""

from ledger.gateway.processors.stripe.settings import StripeEndpoint
from ledger.gateway.processors.stripe.webhooks import StripeWebhooks, make_stripe

__all__ = ["StripeEndpoint", "StripeWebhooks", "make_stripe"]
