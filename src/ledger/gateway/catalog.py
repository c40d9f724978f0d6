"""The processors that an endpoint may have: the one list of them."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

from ledger.gateway.deliveries import Processor
from ledger.gateway.endpoints import EndpointBase
from ledger.gateway.processors.adyen import Adyen, AdyenEndpoint
from ledger.gateway.processors.adyen_platform import AdyenPlatform, AdyenPlatformEndpoint
from ledger.gateway.processors.generic import GenericEndpoint, GenericWebhooks
from ledger.gateway.processors.mercado_pago import MercadoPagoEndpoint, make_mercado_pago
from ledger.gateway.processors.standard_webhooks import StandardWebhooks, StandardWebhooksEndpoint
from ledger.gateway.processors.stripe import StripeEndpoint, make_stripe
from ledger.gateway.signatures import SigningSecret

# Makes an endpoint's processor. Raises ValueError if it lacks something, such as a key of an API.
Maker = Callable[[Any, Sequence[SigningSecret]], Processor]

# The model of each processor's endpoints, and what makes its processor: a line for each.
MAKERS: dict[type[EndpointBase], Maker] = {
    AdyenEndpoint: Adyen,
    AdyenPlatformEndpoint: AdyenPlatform,
    GenericEndpoint: GenericWebhooks,
    MercadoPagoEndpoint: make_mercado_pago,
    StandardWebhooksEndpoint: StandardWebhooks,
    StripeEndpoint: make_stripe,
}


def processor_name(endpoint: EndpointBase | type[EndpointBase]) -> str:
    """What `processor` is for an endpoint in the file."""
    name: str = get_args(
        (endpoint if isinstance(endpoint, type) else type(endpoint))
        .model_fields["processor"]
        .annotation
    )[0]
    return name


def make_processor(endpoint: EndpointBase, secrets: Sequence[SigningSecret]) -> Processor:
    """The processor of an endpoint. Raises ValueError."""
    return MAKERS[type(endpoint)](endpoint, secrets)
