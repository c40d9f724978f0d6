"""The gateway's file: one TOML file, checked as a whole before anything of it is used.

[http]
address = "127.0.0.1:8480"

[[endpoints]]
name = "stripe-peru"
processor = "stripe"
…
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Protocol, Union, cast, runtime_checkable

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from ledger.addresses import is_address
from ledger.gateway.booking import Route
from ledger.gateway.catalog import MAKERS, make_processor, processor_name
from ledger.gateway.endpoints import EndpointBase, Secret, Table
from ledger.gateway.signatures import read_secrets

FILE_BYTES_MAX = 4 * 1024 * 1024
ENDPOINTS_MAX = 200
SCHEMA_FILE = Path(__file__).with_name("gateway.schema.json")


class ConfigurationError(Exception):
    """The file cannot be used. `problems` are lines, each of which begins with the place."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        super().__init__(f"{path}: {'; '.join(problems)}")
        self.path = path
        self.problems = tuple(problems)


@runtime_checkable
class Closable(Protocol):
    """A processor with connections of its own."""

    async def aclose(self) -> None:
        """Closes them."""
        ...


class Http(Table):
    """Where the gateway listens, and how much it takes. A change needs a restart."""

    address: str = Field(
        "127.0.0.1:8480", description="HOST:PORT of the posts, /healthz, /readyz and /metrics."
    )
    private_address: str = Field(
        "",
        description="HOST:PORT of health and metrics. If set, /metrics is nowhere else.",
    )
    tls_certificate: Path | None = Field(
        None, description="The certificate chain in PEM. Without: plaintext, for a proxy's posts."
    )
    tls_key: Path | None = Field(None, description="The key of the certificate in PEM.")
    posts_max: int = Field(
        1000, ge=1, le=100_000, description="Posts under way at once; more get 503 and come again."
    )
    body_seconds: float = Field(10, gt=0, le=60, description="How long a post's body may take.")
    answer_seconds: float = Field(
        8, gt=0, le=20, description="How long a delivery may take to be booked; then 503."
    )

    @field_validator("address", "private_address")
    @classmethod
    def _is_address(cls, address: str) -> str:
        if address and (not is_address(address) or address.startswith(("unix:", "dns:"))):
            raise ValueError("must be HOST:PORT, with a port up to 65535")
        return address

    @model_validator(mode="after")
    def _has_both(self) -> "Http":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        return self


class Retries(Table):
    """How parked deliveries, and those that a person wants tried again, are tried."""

    poll_seconds: float = Field(
        10, gt=0, le=600, description="How often the ledger is asked for deliveries to try."
    )
    give_up_after_hours: float = Field(
        72, gt=0, le=24 * 30, description="From this age on a parked delivery waits for a person."
    )


class GatewayFile(Table):
    """The tables of the file, without the endpoints."""

    http: Http = Http()
    retries: Retries = Retries()


@dataclass(frozen=True, slots=True)
class Configuration:
    """The file as it was read, with the secrets that it names."""

    http: Http
    retries: Retries
    routes: Mapping[str, Route]
    # Every file that it was read from. A change of one of them is a change of the configuration.
    files: tuple[Path, ...]

    async def close(self) -> None:
        """Closes the connections of its endpoints to their processors' APIs."""
        for route in self.routes.values():
            if isinstance(route.processor, Closable):
                await route.processor.aclose()


def load(path: Path) -> Configuration:
    """Reads the file and the secrets that it names. Raises ConfigurationError."""
    file, endpoints = read(path)
    routes: dict[str, Route] = {}
    files = [path]
    problems: list[str] = []
    for number, endpoint in enumerate(endpoints):
        place = f"endpoints[{number}] ({endpoint.name})"
        if endpoint.name in routes:
            problems.append(f"{place}: name: another endpoint has the same")
            continue
        try:
            processor = make_processor(endpoint, read_secrets(endpoint.secrets))
        except (ValueError, OSError) as error:
            problems.append(f"{place}: secrets: {error}")
            continue
        routes[endpoint.name] = Route(
            endpoint,
            processor_name(endpoint),
            processor,
            fetches=getattr(endpoint, "api", None) is not None,
        )
        files += [secret.file for secret in secrets_in(endpoint) if secret.file is not None]
    if problems:
        raise ConfigurationError(path, problems)
    return Configuration(file.http, file.retries, routes, tuple(dict.fromkeys(files)))


def read(path: Path) -> tuple[GatewayFile, list[EndpointBase]]:
    """The checked tables of the file, without looking at secrets. Raises ConfigurationError."""
    try:
        with path.open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigurationError(path, ["the file is larger than 4 MiB"])
        values = tomllib.loads(content.decode("utf-8"), parse_float=Decimal)
    except OSError as error:
        raise ConfigurationError(path, [error.strerror or str(error)]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(path, [f"no TOML in UTF-8: {error}"]) from error
    listed = values.pop("endpoints", None)
    problems: list[str] = []
    file = GatewayFile()
    try:
        file = GatewayFile.model_validate(values)
    except ValidationError as error:
        problems += _problems(error, ())
    endpoints: list[EndpointBase] = []
    if not isinstance(listed, list) or not 1 <= len(listed) <= ENDPOINTS_MAX:
        problems.append(f"endpoints: must be 1 to {ENDPOINTS_MAX} tables: [[endpoints]]")
        listed = []
    for number, table in enumerate(listed):
        try:
            endpoints.append(_endpoint_adapter().validate_python(table))
        except ValidationError as error:
            name = table.get("name") if isinstance(table, dict) else None
            problems += _problems(error, (f"endpoints[{number}]", f"({name})" if name else ""))
    if problems:
        raise ConfigurationError(path, problems)
    return file, endpoints


def secrets_in(endpoint: EndpointBase) -> list[Secret]:
    """All secrets of an endpoint, also those inside of its tables, such as an API's key."""
    return list(_secrets_in(endpoint))


def _secrets_in(value: object) -> list[Secret]:
    if isinstance(value, Secret):
        return [value]
    if isinstance(value, Table):
        return [
            secret
            for name in type(value).model_fields
            for secret in _secrets_in(getattr(value, name))
        ]
    if isinstance(value, tuple):
        return [secret for element in value for secret in _secrets_in(element)]
    return []


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    schema = GatewayFile.model_json_schema()
    endpoint = _endpoint_adapter().json_schema(ref_template="#/$defs/{model}")
    schema["$defs"] = {**schema.get("$defs", {}), **endpoint.pop("$defs", {})}
    schema["properties"]["endpoints"] = {
        "type": "array",
        "minItems": 1,
        "maxItems": ENDPOINTS_MAX,
        "description": "The routes, one for each webhook endpoint of a processor.",
        "items": endpoint,
    }
    schema["required"] = ["endpoints"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "The file of the ledger's webhook gateway",
    }


def schema_text() -> str:
    """The text of `gateway.schema.json`."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


@cache
def _endpoint_adapter() -> TypeAdapter[EndpointBase]:
    # Made of the catalog, which no type checker can follow.
    union: Any = Union[tuple(MAKERS)]  # noqa: UP007
    if len(MAKERS) > 1:
        union = Annotated[union, Field(discriminator="processor")]
    adapter: TypeAdapter[EndpointBase] = TypeAdapter(union)
    return adapter


def _problems(error: ValidationError, place: Sequence[str]) -> list[str]:
    """Each as `endpoints[1] (name): field: what is wrong`. Never the value: it may be a secret."""
    lines = []
    processors = {processor_name(kind) for kind in MAKERS}
    for found in error.errors(include_url=False, include_input=False):
        path = [part for part in found["loc"] if part not in processors]
        field = _dotted(cast("Sequence[str | int]", path))
        message = found["msg"].removeprefix("Value error, ")
        prefix = " ".join(part for part in place if part)
        lines.append(": ".join(part for part in (prefix, field, message) if part))
    return lines


def _dotted(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
