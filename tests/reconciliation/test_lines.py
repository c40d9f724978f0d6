"""Rows become lines in the currency of settlement: signs, fees, taxes, ids."""

import pytest
from support.reports import ADYEN_SETTLEMENT, MERCADO_PAGO, STRIPE_PAYOUT, outcomes_of, reconciled

from ledger.reconciliation.lines import ReportLine
from ledger.reconciliation.problems import ReportUnusable


def lines_of(report: str) -> list[ReportLine]:
    """The lines and payouts of a report, each once."""
    found = [line for outcome in outcomes_of(report) for line in outcome.lines]
    return sorted(set(found), key=lambda line: (line.row, line.kind))


def table_of(report: str) -> str:
    """The lines as a table: row, kind, gross, cost, net."""
    return "\n".join(
        f"{line.row} {line.kind} {line.gross_minor} {line.cost_minor} {line.net_minor}"
        for line in lines_of(report)
    )


def test_stripe_rows() -> None:
    assert table_of(STRIPE_PAYOUT) == "\n".join(
        (
            "2 charge 12000 205 11795",
            "3 charge 3140 71 3069",
            "4 refund -1200 0 -1200",
            "5 dispute -3140 2000 -5140",
            "6 dispute_reversal 6400 0 6400",
            "7 fee 0 330 -330",
            "8 reserve -900 0 -900",
            "9 payout -13694 0 -13694",
        )
    )


def test_adyen_rows() -> None:
    """A sale in GBP counts in EUR; commission and interchange fees add up; debits are negative."""
    assert table_of(ADYEN_SETTLEMENT) == "\n".join(
        (
            "2 charge 2330 52 2278",
            "3 charge 4800 79 4721",
            "4 refund -800 0 -800",
            "5 dispute -500 1500 -2000",
            "6 fee 0 310 -310",
            "7 payout -3889 0 -3889",
        )
    )
    sale = lines_of(ADYEN_SETTLEMENT)[0]
    assert sale.note == "paid in GBP at 1.1652"
    assert sale.event_ids[0] == "adyen:8816178952380561:CAPTURE"


def test_mercado_pago_rows() -> None:
    """Fees are negative, tax is a line, and the refund of a payment has the payment's id."""
    assert table_of(MERCADO_PAGO) == "\n".join(
        (
            "2 charge 25000 1250 23750",
            "3 charge 100000 5000 95000",
            "3 tax -600 0 -600",
            "4 refund -10000 0 -10000",
        )
    )


def test_a_rate_that_does_not_lead_to_the_amount_is_said() -> None:
    wrong = ADYEN_SETTLEMENT.replace("1.1652", "1.1752")
    assert "does not lead to the amount" in lines_of(wrong)[0].note


def test_damaged_ids_are_said_and_not_used() -> None:
    damaged = MERCADO_PAGO.replace("91000000001", "9.1E+10").replace("mesa-9", "#NAME?")
    with reconciled(damaged) as result:
        assert result.notes == (
            "EXTERNAL_REFERENCE: 2 ids damaged by a spreadsheet and not used, first in line 2:"
            " #NAME?",
            "PACK_ID: 1 id damaged by a spreadsheet and not used, first in line 3: 2.0E+15",
            "SOURCE_ID: 2 ids damaged by a spreadsheet and not used, first in line 2: 9.1E+10",
        )
        first = next(result.outcomes()).lines[0]
        assert (first.event_ids, first.references) == ((), ("70001",))
        assert "damaged: SOURCE_ID" in first.note


@pytest.mark.parametrize("text", ['=HYPERLINK("x")', "@ch_1", '="91000000001"'])
def test_formulas_are_never_ids(text: str) -> None:
    quoted = '"' + text.replace('"', '""') + '"'
    (first, *_) = outcomes_of(MERCADO_PAGO.replace("91000000001", quoted))
    assert first.lines[0].event_ids == ()


def test_ids_above_2_to_53_keep_their_digits() -> None:
    report = MERCADO_PAGO.replace("91000000001", "217000061307271001")
    assert lines_of(report)[0].event_ids == ("mp:217000061307271001:approved",)


def test_rows_that_do_not_add_up_are_found() -> None:
    report = STRIPE_PAYOUT.replace("120.00,2.05,117.95", "120.00,2.05,117.85")
    assert lines_of(report)[0].untied_minor == 10


def test_fee_rows_without_an_id_differ_by_what_they_say() -> None:
    """The same row has the same id in every order of columns, and a second one another."""
    rows = ADYEN_SETTLEMENT.splitlines(keepends=True)
    twice = "".join((*rows[:6], rows[5], *rows[6:]))
    ids = [line.event_ids[0] for line in lines_of(twice) if line.kind == "fee"]
    assert ids[1] == ids[0].replace(":fee", ".2:fee")
    assert [line.event_ids[0] for line in lines_of(ADYEN_SETTLEMENT) if line.kind == "fee"] == [
        ids[0]
    ]


def test_the_currency_that_a_report_names_must_be_that_of_the_caller() -> None:
    with pytest.raises(ReportUnusable, match="is EUR, where --currency says USD"):
        outcomes_of(STRIPE_PAYOUT, currency="USD")


def test_a_release_report_needs_its_currency() -> None:
    """Its total is that of its lines and of what it began with."""
    report = (
        "DATE,SOURCE_ID,EXTERNAL_REFERENCE,RECORD_TYPE,DESCRIPTION,NET_CREDIT_AMOUNT,"
        "NET_DEBIT_AMOUNT,GROSS_AMOUNT\n"
        "2026-02-01T00:00:00.000-03:00,,,initial_available_balance,,50.00,0.00,50.00\n"
        "2026-02-02T00:00:00.000-03:00,7001,o-1,release,payment,95.00,0.00,100.00\n"
        "2026-02-03T00:00:00.000-03:00,7001,o-1,release,refund,0.00,20.00,20.00\n"
        "2026-02-04T00:00:00.000-03:00,7100,,release,payout,0.00,60.00,60.00\n"
        "2026-02-04T00:00:00.000-03:00,,,total,,145.00,80.00,65.00\n"
    )
    with pytest.raises(ReportUnusable, match="name the currency"):
        outcomes_of(report)
    kinds = [
        (outcome.lines[0].row, outcome.kind.value)
        for outcome in outcomes_of(report, currency="ARS")
    ]
    assert kinds == [(3, "missing_here"), (4, "missing_here"), (5, "settlement_not_booked")]
    wrong = report.replace("145.00,80.00", "145.00,81.00")
    assert (6, "sum_differs") in [
        (outcome.lines[0].row, outcome.kind.value) for outcome in outcomes_of(wrong, currency="ARS")
    ]
