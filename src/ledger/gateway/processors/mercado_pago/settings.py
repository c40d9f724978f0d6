"""What an endpoint of Mercado Pago has in the gateway's file beside what every endpoint has."""

from typing import Literal

from pydantic import Field

from ledger.gateway.endpoints import EndpointBase
from ledger.gateway.fetching import Api
from ledger.gateway.signatures import TOLERANCE_SECONDS

MERCADO_PAGO_ORIGIN = "https://api.mercadopago.com"


class MercadoPagoEndpoint(EndpointBase):
    """An endpoint of webhooks. Its secrets are those of the application's webhooks."""

    processor: Literal["mercado_pago"]
    api: Api = Field(
        description="Where resources are fetched: its key is the access token of the application"
        " and of the endpoint's mode."
    )
    tolerance_seconds: int = Field(
        TOLERANCE_SECONDS,
        ge=1,
        le=7 * 24 * 3600,
        description="How far the time of a signature may be from ours, before and after. A"
        " notification that is sent again only makes the gateway look again.",
    )
