"""Mercado Pago: notifications that name a resource, which is fetched.

A signature covers the id in the query, the request's id and a time, and no byte of the body. So a
notification only says what to fetch, and what the API returns decides. Each fact takes its fields
from parts of the resource that stay as they are, so that every later look reports it the same:

    fact                      event id                                  occurred_at
    charge                    mp:<payment>:approved                     date_approved
    tax withheld              mp:tax:<charges_details.id>               date_approved
    refund, refund failed     mp:refund:<refund>[:failed]               the refund's date_created
    tax given back            mp:tax:<…>:reversed:<operation>           the entry's date_created
    fee given back            mp:fee:<…>:refunded:<operation>           the entry's date_created
    commission given back     mp:commission:<…>:refunded:<operation>    the entry's date_created
    dispute opened            mp:chargeback:<id>:opened                 date_created
    dispute won, lost         mp:chargeback:<id>:won|lost               date_last_updated

Amounts are `transaction_amount` and the `original` amounts of `charges_details`, which refunds
leave as they are. Two things may change: `available_at` of charges and taxes, which is
`money_release_date` and can be put off or brought forward, and the instant of an outcome, since a
chargeback may be updated afterwards. The first report stands.
"""

from ledger.gateway.processors.mercado_pago.settings import MercadoPagoEndpoint
from ledger.gateway.processors.mercado_pago.webhooks import (
    MercadoPagoWebhooks,
    make_mercado_pago,
)

__all__ = ["MercadoPagoEndpoint", "MercadoPagoWebhooks", "make_mercado_pago"]
