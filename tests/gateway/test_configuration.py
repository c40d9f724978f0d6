"""The gateway's file: what is refused names its place, and never shows a secret."""

import json
import tomllib
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
from support import gateway as plain
from support import mercado_pago
from support.gateway import endpoint_table, gateway_file
from support.http_hosts import host
from support.readings import delivery_of
from support.stripe_messages import charge, event
from support.waiting import until

from ledger import gateway
from ledger.gateway.catalog import MAKERS
from ledger.gateway.configuration import (
    SCHEMA_FILE,
    ConfigurationError,
    _endpoint_adapter,
    load,
    read,
    schema_text,
    secrets_in,
)
from ledger.gateway.deliveries import FetchFailed

EXAMPLE = Path(gateway.__file__).with_name("gateway.example.toml")


def problems_of(folder: Path, *endpoints: str, http: str = "") -> str:
    """The problems of a file, one a line."""
    with pytest.raises(ConfigurationError) as failure:
        load(gateway_file(folder, *endpoints, http=http))
    return "\n".join(failure.value.problems)


def test_the_shipped_schema_is_that_of_the_code() -> None:
    """Otherwise: ledger gateway schema > src/ledger/gateway/gateway.schema.json."""
    maker = MAKERS.pop(plain.PlainEndpoint)
    _endpoint_adapter.cache_clear()
    try:
        assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()
    finally:
        MAKERS[plain.PlainEndpoint] = maker
        _endpoint_adapter.cache_clear()


def test_the_example_is_right_and_has_every_processor_with_a_module() -> None:
    _, endpoints = read(EXAMPLE)
    names = {endpoint.processor for endpoint in endpoints}  # type: ignore[attr-defined]
    assert names == {"stripe", "adyen", "adyen_platform", "mercado_pago", "generic"}
    assert all(secrets_in(endpoint) for endpoint in endpoints)
    values = json.loads(json.dumps(tomllib.loads(EXAMPLE.read_text(encoding="utf-8")), default=str))
    jsonschema.validate(values, json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        (endpoint_table(lines="unknown = 1"), "endpoints[0] (plain): unknown: Extra inputs"),
        (endpoint_table(lines="mode = 'odd'").replace('mode = "test"\n', ""), "(plain): mode: "),
        (endpoint_table("With Blanks"), "endpoints[0] (With Blanks): name: "),
        (
            endpoint_table(lines="restaurant = { by = 'metadata' }"),
            "endpoints[0] (plain): restaurant: key goes with",
        ),
        (
            endpoint_table(lines="restaurant = { by = 'account', table = { a = 'with blanks' } }"),
            "'with blanks' is no restaurant id",
        ),
        (endpoint_table(lines="fees = { commission = 'rate' }"), "fees: percent or fixed_minor"),
        (
            endpoint_table(lines="fees = { commission = 'rate', percent = 101 }"),
            "fees.percent: Input should be less than or equal to 100",
        ),
        (endpoint_table(lines="exponents = { XXX = 2 }"), "exponents: XXX = 2 is no currency"),
        (endpoint_table(secret=""), "endpoints[0] (plain): secrets: secret first is empty"),
        (
            endpoint_table().replace('value = "a secret of the tests"', 'file = "/nowhere/x"'),
            "secrets: secret first: cannot read /nowhere/x: No such file",
        ),
        (
            endpoint_table().replace('value = "a secret of the tests"', 'variable = "NO_SUCH"'),
            "secrets: secret first is empty",
        ),
        (
            endpoint_table().replace('name = "first", ', 'name = "first", variable = "X", '),
            "endpoints[0] (plain): secrets[0]: needs exactly one of",
        ),
        (endpoint_table().replace('processor = "plain"', 'processor = "odd"'), "(plain): "),
        ("", "endpoints: must be 1 to 200 tables"),
        (endpoint_table() * 2, "endpoints[1] (plain): name: another endpoint has the same"),
    ],
)
def test_a_faulty_endpoint_is_refused_by_its_place(
    tmp_path: Path, endpoint: str, problem: str
) -> None:
    found = problems_of(tmp_path, endpoint or " ")
    assert problem in found
    assert plain.SECRET not in found


@pytest.mark.parametrize(
    ("http", "problem"),
    [
        ("posts_max = 0", "http.posts_max: Input should be greater than"),
        ("tls_key = 'key.pem'", "http: tls_certificate and tls_key go together"),
        ("private_address = '127.0.0.1:99999'", "http.private_address: must be HOST:PORT"),
        ("private_address = 'unix:/run/x'", "http.private_address: must be HOST:PORT"),
        ("odd = 1", "http.odd: Extra inputs"),
        ("[odd]", "odd: Extra inputs"),
        ("posts_max", "no TOML"),
    ],
)
def test_a_faulty_table_is_refused_by_its_place(tmp_path: Path, http: str, problem: str) -> None:
    assert problem in problems_of(tmp_path, http=http)


def test_all_problems_are_shown_at_once(tmp_path: Path) -> None:
    endpoints = endpoint_table(lines="unknown = 1"), endpoint_table("b", "mistaken = 1")
    found = problems_of(tmp_path, *endpoints, http="posts_max = 0")
    assert len(found.splitlines()) == 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "none.toml")


def test_a_secrets_file_is_watched_and_its_end_of_line_is_none_of_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{plain.SECRET}\n")
    table = endpoint_table().replace(f'value = "{plain.SECRET}"', f'file = "{secret}"')
    path = gateway_file(tmp_path, table)
    assert load(path).files == (path, secret)


async def test_a_file_that_is_replaced_leaves_no_connections_to_the_processors(
    tmp_path: Path,
) -> None:
    not_found = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}"
    async with host(not_found) as api:
        lines = f'api = {{ url = "{api.origin}", key = {{ name = "api", value = "key_1" }} }}'
        deliveries = {
            "stripe": delivery_of(json.dumps(event("charge.refunded", charge())).encode()),
            "mercado_pago": mercado_pago.post(),
        }
        tables = [
            endpoint_table(name.replace("_", "-"), lines).replace('"plain"', f'"{name}"')
            for name in deliveries
        ]
        configuration = load(gateway_file(tmp_path, *tables))
        for name, delivery in deliveries.items():
            with pytest.raises(FetchFailed, match="status 404"):
                await configuration.routes[name.replace("_", "-")].processor.read(delivery)
        assert api.connections == 2
        await configuration.close()
        await until(lambda: api.connections == 0)
