"""A gateway for tests: its file, a processor that only tests have, and signed posts."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import httpx

from ledger.gateway.app import Gateway
from ledger.gateway.books import RemoteBooks
from ledger.gateway.catalog import MAKERS
from ledger.gateway.configuration import load
from ledger.gateway.deliveries import (
    Delivery,
    Fact,
    FetchFailed,
    Ignored,
    Owner,
    Reading,
    SignatureRefused,
    Unbookable,
)
from ledger.gateway.endpoints import EndpointBase
from ledger.gateway.payloads import Malformed, Payload, parse
from ledger.gateway.server import running_gateway
from ledger.gateway.signatures import SigningSecret, signing_secret
from ledger.v1 import ledger_pb2

SECRET = "a secret of the tests"
OCCURRED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


class PlainEndpoint(EndpointBase):
    """An endpoint of the tests' processor, which posts facts as they are."""

    processor: Literal["plain"]


class PlainProcessor:
    """Reads `{"facts": […]}`: each a fact's fields, or `ignored`, `unbookable`, `fetch_failed`."""

    acknowledgement = b"taken"
    content_type = "text/plain"

    def __init__(self, endpoint: PlainEndpoint, secrets: Sequence[SigningSecret]) -> None:
        self._secrets = secrets
        # Takes what is `unbookable` for what moves no money, as a mended gateway would.
        self.forgives = False

    def verify(self, delivery: Delivery) -> str:
        given = delivery.headers.get("x-signature", "")
        if not given:
            raise SignatureRefused("there is no x-signature", status=401)
        return signing_secret(
            self._secrets,
            delivery.received_at,
            lambda secret: signature(delivery.body, secret).encode(),
            [given.encode()],
        )

    async def read(self, delivery: Delivery) -> Sequence[Reading]:
        try:
            return [self._reading(part) for part in parse(delivery.body).children("facts")]
        except Malformed as error:
            return [Unbookable("", "UNKNOWN_SHAPE", str(error))]

    def _reading(self, part: Payload) -> Reading:
        if part.has("ignored"):
            return Ignored(part.text("ignored"), "moves no money")
        if part.has("unbookable") and self.forgives:
            return Ignored("odd", "the test says so")
        if part.has("unbookable"):
            return Unbookable("odd", part.text("unbookable"), "the test says so")
        if part.has("fetch_failed"):
            raise FetchFailed(part.text("fetch_failed"))
        return Fact(
            event_id=part.text("event_id"),
            type=ledger_pb2.EventType.Value(f"EVENT_TYPE_{part.text('type').upper()}"),
            amount_minor=part.integer("amount_minor"),
            currency=part.text("currency", "PEN"),
            occurred_at=datetime.fromisoformat(part.text("occurred_at", OCCURRED_AT.isoformat())),
            owner=Owner(account=part.text("account", ""), metadata=part.texts("metadata")),
            of_platform=part.flag("of_platform", False),
            reference=part.text("reference", ""),
            commission_minor=part.integer("commission_minor", 0),
            processor_fee_minor=part.integer("processor_fee_minor", 0),
            dispute_fee_minor=part.integer("dispute_fee_minor", 0),
            charge=part.text("charge", ""),
            reverses=part.text("reverses", ""),
            payout_id=part.text("payout_id", ""),
            said_by_owner=part.flag("said_by_owner", False),
        )


def add_plain_processor() -> None:
    """Lets files have endpoints of the tests' processor, in this process."""
    MAKERS[PlainEndpoint] = PlainProcessor


add_plain_processor()


def signature(body: bytes, secret: str = SECRET) -> str:
    """What the tests' processor sends as x-signature."""
    digest = hmac.digest(secret.encode(), body, hashlib.sha256)
    return base64.b64encode(digest).decode()


def charge(event_id: str, **fields: Any) -> dict[str, Any]:
    """A charge of 1000 of the restaurant `res_1`, with other fields as given."""
    return {
        "event_id": event_id,
        "type": "charge_succeeded",
        "amount_minor": 1000,
        "account": "res_1",
        **fields,
    }


def body_of(*facts: Mapping[str, Any]) -> bytes:
    """A body of the tests' processor."""
    return json.dumps({"facts": facts}, default=_number).encode()


def _number(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(type(value).__name__)


def request_of(body: bytes, *, name: str = "plain", length: int | None = None) -> bytes:
    """A whole HTTP request that posts a signed body, after which the connection is closed."""
    return (
        b"POST /hooks/%s HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-signature: %s\r\n"
        b"content-length: %d\r\n\r\n%s"
        % (
            name.encode(),
            signature(body).encode(),
            len(body) if length is None else length,
            body,
        )
    )


def gateway_file(folder: Path, *endpoints: str, http: str = "", poll_seconds: float = 0.05) -> Path:
    """Writes a gateway's file; without endpoints, one named `plain` that maps by account."""
    path = folder / "gateway.toml"
    listed = endpoints or (endpoint_table(),)
    path.write_text(
        f'[http]\naddress = "127.0.0.1:0"\n{http}\n[retries]\npoll_seconds = {poll_seconds}\n'
        + "".join(listed),
        encoding="utf-8",
    )
    return path


def endpoint_table(name: str = "plain", lines: str = "", *, secret: str = SECRET) -> str:
    """An endpoint of the tests' processor, as a table of the file."""
    restaurant = "" if "restaurant" in lines else 'restaurant = { by = "account" }\n'
    return (
        f'[[endpoints]]\nname = "{name}"\nprocessor = "plain"\nmode = "test"\n'
        f'secrets = [{{ name = "first", value = "{secret}" }}]\n{restaurant}{lines}\n'
    )


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway in this process, and a client of its HTTP."""

    gateway: Gateway
    url: str
    client: httpx.AsyncClient

    async def post(
        self, body: bytes, *, name: str = "plain", secret: str = SECRET, **headers: str
    ) -> httpx.Response:
        """Posts a signed body."""
        return await self.client.post(
            f"{self.url}/hooks/{name}",
            content=body,
            headers={
                "content-type": "application/json",
                "x-signature": signature(body, secret),
                **headers,
            },
        )

    async def post_alone(self, body: bytes, *, name: str = "plain") -> bytes:
        """Posts a signed body on a connection of its own; returns the answer as it came.

        Cheaper than `post` where many are under way: httpx looks at all connections for each.
        """
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request_of(body, name=name))
            return await reader.read()
        finally:
            writer.close()

    async def deliver(self, *facts: Mapping[str, Any]) -> int:
        """Posts facts. Returns the status."""
        return (await self.post(body_of(*facts))).status_code


@asynccontextmanager
async def gateway_on(path: Path, books: RemoteBooks) -> AsyncIterator[RunningGateway]:
    """A gateway of a file on books."""
    async with (
        running_gateway(path, load(path), books) as (gateway, _, listening),
        httpx.AsyncClient(timeout=60) as client,
    ):
        yield RunningGateway(gateway, f"http://{listening.address}", client)
