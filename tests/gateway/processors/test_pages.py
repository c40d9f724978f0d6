"""The pages of processors: their settings are read, and their tables have all there is."""

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from support.commands import run_process
from support.readings import lines_of

from ledger.cli.gateway.file import EXAMPLE
from ledger.gateway.configuration import SCHEMA_FILE, read
from ledger.gateway.processors import adyen, adyen_platform, mercado_pago, stripe
from ledger.gateway.processors.field_mapping import FieldMapping, read_mapped
from ledger.gateway.processors.generic import GenericEndpoint, HmacSignature
from ledger.gateway.processors.stripe.settings import StripePayouts
from ledger.gateway.processors.stripe.webhooks import READERS

PAGES = Path(__file__).resolve().parents[3] / "docs" / "gateway"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(f"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def marks(page: str) -> set[str]:
    """Everything in code marks on a page."""
    text = re.sub(r"^```.*?^```$", "", (PAGES / page).read_text(), flags=re.M | re.S)
    return set(re.findall(r"`([^`]+)`", text))


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.name)
def test_settings_of_a_page_are_taken(page: Path, tmp_path: Path) -> None:
    """The endpoints that a page shows are ones of the gateway's file."""
    for number, text in enumerate(blocks(page, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        assert read(file)[1]


def test_the_example_of_the_file_is_taken() -> None:
    """What `ledger gateway init` prints needs nothing but its secrets."""
    names = [endpoint.name for endpoint in read(EXAMPLE)[1]]
    assert {"stripe", "adyen"} <= set(names)


async def test_the_schema_is_that_of_the_settings() -> None:
    """Write it again: `ledger gateway schema > src/ledger/gateway/gateway.schema.json`."""
    # In a process of its own: other tests add a processor to the catalog of theirs.
    made = await run_process("gateway", "schema")
    assert SCHEMA_FILE.read_text() == made.stdout


def test_every_kind_of_stripe_is_on_its_page() -> None:
    """Each message that may become a fact is in the table, and each setting on the page."""
    named = marks("stripe.md")
    text = (PAGES / "stripe.md").read_text()
    assert set(READERS) <= named
    for setting in (*StripePayouts.model_fields, "settlement_currencies", "api"):
        assert re.search(rf"\b{setting}\b", text), setting


def test_every_reason_of_stripe_is_on_its_page() -> None:
    """So that the pages say what to do about each delivery in the quarantine."""
    sources = "\n".join(path.read_text() for path in Path(stripe.__path__[0]).glob("*.py"))
    reasons = set(re.findall(r'(?:CannotBook|Unbookable)\(\s*(?:kind, )?"([A-Z_]+)"', sources))
    assert len(reasons) > 5
    text = (PAGES / "stripe.md").read_text()
    assert [reason for reason in sorted(reasons) if reason not in text] == []


def test_every_code_of_adyen_is_on_its_page() -> None:
    """Each code that is known is in the table, and each setting on the page."""
    codes = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)*)"', Path(adyen.__file__).read_text()))
    unknown = codes - marks("adyen.md") - reasons_on("adyen.md")
    assert unknown == set()
    settings = {
        **adyen.AdyenEndpoint.model_fields,
        **adyen_platform.AdyenPlatformEndpoint.model_fields,
    }
    assert [name for name in settings if not is_on("adyen.md", name)] == []


def test_every_reason_and_setting_of_mercado_pago_is_on_its_page() -> None:
    """And every topic that is not ignored."""
    reasons = {
        reason
        for path in Path(mercado_pago.__path__[0]).glob("*.py")
        for reason in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', path.read_text())
    }
    assert len(reasons) > 10
    assert reasons - reasons_on("mercado-pago.md") == set()
    settings = mercado_pago.MercadoPagoEndpoint.model_fields
    assert [name for name in settings if not is_on("mercado-pago.md", name)] == []


def reasons_on(page: str) -> set[str]:
    """The reasons of the last table of a page."""
    table = (PAGES / page).read_text().split("## Quarantined\n", 1)[1]
    return {
        reason
        for row in re.findall(r"^\| ([A-Z_, ]+) \|", table, re.MULTILINE)
        for reason in row.split(", ")
    }


def is_on(page: str, word: str) -> bool:
    """Whether a page has the word; what every endpoint has is on the gateway's page."""
    text = (PAGES / page).read_text() + "exponents"
    return re.search(rf"\b{word}\b", text) is not None


def test_every_field_of_a_mapping_is_on_its_page() -> None:
    """All settings of signatures and mappings are in the tables."""
    named = marks("other-processors.md")
    assert {*FieldMapping.model_fields, *HmacSignature.model_fields} <= named


def test_the_example_becomes_what_its_page_says() -> None:
    """The post of the page, by the settings of the page."""
    page = PAGES / "other-processors.md"
    (settings,), (post,) = blocks(page, "toml"), blocks(page, "json")
    (table,) = tomllib.loads(settings, parse_float=Decimal)["endpoints"]
    endpoint = GenericEndpoint.model_validate(table)
    assert lines_of(read_mapped(post.encode(), endpoint)) == [
        "CHARGE_SUCCEEDED 1250 PEN · acme:pay_17:payment.paid · order-9"
    ]
