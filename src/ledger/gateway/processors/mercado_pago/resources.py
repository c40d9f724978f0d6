"""What payments and chargebacks have in common, as the API returns them."""

from decimal import Decimal, InvalidOperation

from ledger.gateway.deliveries import Unbookable
from ledger.gateway.payloads import Malformed, Payload
from ledger.gateway.processors.mercado_pago.settings import MercadoPagoEndpoint


def wrong_mode(resource: Payload, kind: str, endpoint: MercadoPagoEndpoint) -> Unbookable | None:
    """That the resource is of the other mode. One that does not say is of the API key's mode."""
    value = str(resource.values.get("live_mode", "")).lower()
    mode = {"true": "live", "false": "test"}.get(value, endpoint.mode)
    if mode == endpoint.mode:
        return None
    return Unbookable(kind, "WRONG_MODE", f"it is of {mode} mode, the endpoint of {endpoint.mode}")


def decimal_of(payload: Payload, name: str, default: str | None = None) -> Decimal:
    """An amount in whole units, exactly as written: a number, or a text as some resources have.

    Raises Malformed.
    """
    value = payload.values.get(name)
    if value is None and default is not None:
        return Decimal(default)
    if isinstance(value, str) and len(value) <= 32:
        try:
            return Decimal(value)
        except InvalidOperation as error:
            raise Malformed(f"{name} is no amount") from error
    return payload.decimal(name)
