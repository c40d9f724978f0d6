"""Tables of reports: headers, separators, damaged rows, several tables in a file."""

import io

import pytest
from support.reports import MERCADO_PAGO, STRIPE_PAYOUT, found, outcomes_of, reconciled

from ledger.reconciliation.built_in import LAYOUTS, STRIPE_BALANCE
from ledger.reconciliation.problems import ProblemList, ReportUnusable
from ledger.reconciliation.rows import Row, read_rows
from ledger.reconciliation.texts import find_text

HEADER = "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id"
ROW = "txn_1,2026-03-02 08:15:00,eur,12.00,0.50,11.50,charge,ch_1"


def report(*rows: str, header: str = HEADER, end: str = "\n") -> str:
    return "".join(f"{row}{end}" for row in (header, *rows))


def problems_of(text: str | bytes) -> list[tuple[int, str, str]]:
    with pytest.raises(ReportUnusable) as refused, reconciled(text):
        raise AssertionError("the report was taken")
    return [(found.line, found.column, found.text) for found in refused.value.problems]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_ends_of_line_are_found(separator: str, end: str) -> None:
    text = report(ROW, end=end).replace(",", separator)
    assert [o.lines[0].net_minor for o in outcomes_of(text)] == [1150]


def test_columns_may_stand_in_any_order_and_case() -> None:
    names, cells = HEADER.split(","), ROW.split(",")
    text = ",".join(reversed(names)).upper() + "\n" + ",".join(reversed(cells)) + "\n"
    assert [o.lines[0].event_ids for o in outcomes_of(text)] == [("stripe:ch_1",)]


def test_optional_columns_may_lack_and_unknown_ones_are_ignored() -> None:
    text = (
        "note,balance_transaction_id,currency,net,reporting_category,source_id\n"
        '"a, b\nand c",txn_1,eur,11.50,charge,ch_1\n'
    )
    (outcome,) = outcomes_of(text)
    assert (outcome.lines[0].row, outcome.lines[0].gross_minor) == (2, 1150)


def test_rows_are_named_by_the_line_in_which_they_begin() -> None:
    """Quoted cells may have ends of line."""
    text = report('txn_1,2026-03-02,eur,1.00,0.00,1.00,charge,"ch_1\n"', ROW, ROW.replace("1", "2"))
    assert [o.lines[0].row for o in outcomes_of(text)] == [2, 4, 5]


def test_titles_before_the_header_are_left_out_which_is_said() -> None:
    with reconciled("Balance of May\n\n" + report(ROW)) as result:
        (left_out,) = result.left_out
        assert (left_out.first_line, left_out.last_line, left_out.matters) == (1, 1, False)
        assert result.rows == 1


def test_blank_rows_and_a_repeated_header_are_no_lines() -> None:
    text = report(ROW, "", ",,,,,,,", HEADER, ROW.replace("txn_1", "txn_2"))
    assert [outcome.lines[0].row for outcome in outcomes_of(text)] == [2, 6]


def test_empty_trailing_fields_may_lack_or_abound() -> None:
    """A row may end early where nothing that decides is missing, and late with empty cells."""
    text = report(f"{ROW},,,,", header=f"{HEADER},description,memo")
    assert found(text) == [(2, "missing_here")]
    assert found(report(ROW, header=f"{HEADER},description,memo")) == [(2, "missing_here")]


def test_two_tables_in_a_file_are_both_read() -> None:
    """The second with its columns in another order, or of another layout."""
    second = (
        "source_id,balance_transaction_id,net,currency,reporting_category\n"
        "ch_2,txn_2,3.00,eur,charge\n"
    )
    with reconciled(report(ROW) + "\n" + second + "\n" + STRIPE_PAYOUT) as result:
        assert [layout.name for layout in result.layouts] == ["stripe-balance", "stripe-payout"]
        assert result.totals.whole_report("EUR").count == 9


def test_a_table_of_no_known_layout_is_left_out_and_disagrees() -> None:
    with reconciled(report() + "\nSummary,Total\nNet,11.50\nFees,0.50\n") as result:
        (left_out,) = result.left_out
        assert (left_out.first_line, left_out.last_line, left_out.matters) == (3, 5, True)
        assert not result.agrees


@pytest.mark.parametrize(
    ("text", "line", "column", "why"),
    [
        ("a,b,c\n1,2,3\n", 1, "", "no header of a known layout"),
        (HEADER.replace("currency", "curency") + "\n" + ROW, 1, "", "the closest lacks: currency"),
        (report("txn_1,2026-03-02,eur"), 2, "", "has 3 cells for 8 columns"),
        (report(ROW + ",x"), 2, "", "has 9 cells for 8 columns"),
        (report(ROW, header=HEADER.replace("gross", "net")), 1, "net", "is twice in the header"),
        (report('txn_1,"2026-03-02,eur,1.00', ROW), 2, "", "a quote is opened here and not closed"),
        (report('txn_1,"2026"-03-02,eur,1,0,1,charge,ch_1'), 2, "", "is not CSV"),
        (report(f'txn_1,"{"x" * 200_000}",eur,1,0,1,charge,c'), 2, "", "longer than 131072"),
        (report(ROW.replace("12.00", "=12")), 2, "gross", "is a formula"),
        (report(ROW.replace("12.00", "1.2E+01")), 2, "gross", "damaged by a spreadsheet"),
        (report(ROW.replace("12.00", "12,00")), 2, "", "has 9 cells"),
        (report(ROW.replace("12.00", '"12,00"')), 2, "net", "has a point as its decimal mark"),
        (report(ROW.replace("eur", "eux")), 2, "currency", "must be an ISO 4217 code"),
        (report(ROW.replace("eur", "")), 2, "currency", "name the currency with --currency"),
        (report(ROW.replace("2026-03-02", "02/03/2026")), 2, "created_utc", "must be an instant"),
        (report("txn_1,2026-03-02,eur,,,,charge,ch_1"), 2, "net", "the row has no amount"),
        (report(ROW, ROW.replace("11.50", "x"), ROW), 3, "net", "not an amount"),
    ],
)  # fmt: skip
def test_bad_rows_are_refused_by_line_and_column(
    text: str, line: int, column: str, why: str
) -> None:
    first = problems_of(text)[0]
    assert first[:2] == (line, column)
    assert why in first[2]


def test_all_problems_are_found_and_the_first_ones_kept() -> None:
    rows = [ROW.replace("12.00", "x") for _ in range(500)]
    with pytest.raises(ReportUnusable) as refused, reconciled(report(*rows)):
        pass
    assert (len(refused.value.problems), refused.value.count) == (20, 500)


def test_a_file_of_problems_is_given_up() -> None:
    rows = [ROW.replace("12.00", "x") for _ in range(5_000)]
    with pytest.raises(ReportUnusable) as refused, reconciled(report(*rows)):
        pass
    assert refused.value.count == 1_000


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1', "is not JSON"),
        ('{"a": 1}', "no fields of a known layout"),
        ('{"net": NaN}', "NaN is no number"),
        ("[" * 20_000, "no header of a known layout"),
        ('{"net": ' + "[" * 100_000 + "}", "is not JSON"),
        ('{"net": "' + "x" * 1_100_000 + '"}', "is longer than"),
    ],
)
def test_bad_json_lines_are_refused(text: str, why: str) -> None:
    assert why in problems_of(text)[0][2]


def test_json_lines_have_the_names_of_the_columns() -> None:
    text = (
        '{"balance_transaction_id": "txn_1", "created_utc": "2026-03-02 08:15:00",'
        ' "currency": "eur", "gross": 12.00, "fee": 0.5, "net": 11.5,'
        ' "reporting_category": "charge", "source_id": "ch_1", "charge_id": null}\n'
        "\n"
    )
    (outcome,) = outcomes_of("\ufeff" + text)
    assert (outcome.lines[0].gross_minor, outcome.lines[0].cost_minor) == (1200, 50)


def test_layouts_are_told_apart_by_their_headers() -> None:
    for text, name in (
        (STRIPE_PAYOUT, "stripe-payout"),
        (MERCADO_PAGO, "mercadopago-settlement"),
        (report(ROW), "stripe-balance"),
    ):
        with reconciled(text) as result:
            assert [layout.name for layout in result.layouts] == [name]


def test_a_report_of_another_layout_is_refused_by_the_columns_that_it_lacks() -> None:
    problems = ProblemList()
    text_file = find_text(io.BytesIO(MERCADO_PAGO.encode()))
    with pytest.raises(ReportUnusable, match="the closest lacks"):
        list(read_rows(text_file, [STRIPE_BALANCE], problems))


def test_every_row_is_given_once() -> None:
    text_file = find_text(io.BytesIO(STRIPE_PAYOUT.encode()))
    rows = list(read_rows(text_file, LAYOUTS, ProblemList()))
    assert [row.line for row in rows if isinstance(row, Row)] == list(range(2, 10))
