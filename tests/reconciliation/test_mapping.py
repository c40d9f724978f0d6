"""Mapping files: a layout in TOML, or an error that names the key."""

import pytest
from support.reports import booked, found, only, outcomes_of

from ledger.reconciliation.mapping import read_mapping
from ledger.reconciliation.problems import ReportUnusable

MAPPING = """\
name = "bancard"
event_prefix = "bancard:"
timezone = "America/Asuncion"
decimal_mark = ","
date_pattern = "%d/%m/%Y %H:%M"

[columns]
kind = "Tipo"
currency = "Moneda"
gross = "Importe"
fee = ["Comisión", "IVA comisión"]
net = ["Haber", "-Debe"]
occurred_at = "Fecha"
row_id = "Comprobante"
references = ["Pedido", "Comprobante"]
group = "Lote"

[kinds]
venta = "charge"
"anulación" = "refund"
"cargo mensual" = "fee"
"liquidación" = "payout"

[events]
charge = "bancard:{Comprobante}:ok"
refund = "bancard:{Comprobante}:refund"
fee = "bancard:{Comprobante}:fee"
payout = "bancard:{Lote}:settled"

[fee_events]
charge = "bancard:{Comprobante}:fee"
"""
REPORT = """\
Tipo;Comprobante;Pedido;Fecha;Moneda;Importe;Comisión;IVA comisión;Haber;Debe;Lote
Venta;1001;p-1;05/01/2026 10:30;PEN;1.200,50;30,00;3,00;1.167,50;;L1
ANULACIÓN;1002;p-1;05/01/2026 11:00;PEN;-200,00;;;;200,00;L1
Cargo mensual;1003;;31/01/2026 00:00;PEN;;;;;15,50;L1
Liquidación;1004;;31/01/2026 00:00;PEN;;;;;952,00;L1
"""
EVENTS = [
    booked("bancard:1001:ok", amount_minor=120_050, currency="PEN", processor_fee_minor=3300),
    booked("bancard:1002:refund", "refund_succeeded", 20_000, "PEN"),
]


def test_mapping_describes_a_report_completely() -> None:
    """Commas, debit and credit columns, two fees, dates by a pattern, words with accents."""
    layout = read_mapping(MAPPING.encode())
    assert found(REPORT, EVENTS, **only(layout)) == [
        (2, "differs"),
        (3, "differs"),
        (4, "missing_here"),
        (5, "settlement_not_booked"),
    ]
    first, second, fee, payout = outcomes_of(REPORT, EVENTS, **only(layout))
    assert [difference.field for difference in first.differences] == ["date"]
    assert [difference.field for difference in second.differences] == ["date"]
    assert fee.lines[0].cost_minor == 1550
    assert (payout.lines[0].net_minor, payout.is_sure) == (-95_200, True)


def test_mapping_reads_json_lines_in_minor_units() -> None:
    mapping = """
        event_prefix = "acme:"
        units = "minor"
        [columns]
        kind = "type"
        currency = "amount.currency"
        net = "amount.value"
        occurred_at = "at"
        references = ["order.id"]
        [kinds]
        sale = "charge"
        [events]
        charge = "acme:{id}"
    """
    report = (
        '{"type": "sale", "id": 9007199254740993, "amount": {"value": 1250, "currency": "PEN"},'
        ' "at": "2026-01-05T10:00:00Z", "order": {"id": "o-1"}}\n'
    )
    event = booked(
        "acme:9007199254740993",
        amount_minor=1250,
        currency="PEN",
        occurred_at=booked("x").occurred_at.replace(month=1, day=5),
    )
    assert found(report, [event], **only(read_mapping(mapping.encode()))) == [(1, "matched")]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("columns = [", "is not TOML"),
        ('[columns]\nkind = "a"\nnett = "b"', "columns.nett: is no key of a mapping"),
        ('nam = "x"', "nam: is no key"),
        ('[columns]\nnet = "b"', "columns.kind: is missing"),
        ('[columns]\nkind = "a"', "columns.net: is missing"),
        ('[columns]\nkind = "a"\nnet = 5', "columns.net: must be a text or a list of texts"),
        ('[columns]\nkind = "a"\nnet = "b"\n[kinds]\nx = "sale"', "kinds.x: must be one of charge"),
        ('[columns]\nkind = "a"\nnet = "b"\n[events]\nsale = "x"', "events.sale: is no key"),
        ('timezone = "Mars"\n[columns]\nkind = "a"\nnet = "b"', "timezone: 'Mars' is no time zone"),
        ('decimal_mark = ";"\n[columns]\nkind = "a"\nnet = "b"', "decimal_mark: must be one of"),
        ('units = "cents"\n[columns]\nkind = "a"\nnet = "b"', "units: must be one of"),
        ('[columns]\nkind = "a"\nnet = "b"\ncurrency = "PEN"', "columns.currency: is a currency"),
        ("columns = 5", "columns: must be a table"),
        ("event_dates = 5", "columns.kind: is missing"),
        ("#" * 70_000, "is longer than"),
        ("\udcff", "is not TOML"),
    ],
)
def test_bad_mappings_are_refused_by_their_key(text: str, key: str) -> None:
    with pytest.raises(ReportUnusable) as refused:
        read_mapping(text.encode("utf-8", "surrogateescape"))
    assert key in str(refused.value)
