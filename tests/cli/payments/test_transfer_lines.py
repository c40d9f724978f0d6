"""The lines of a file of transfers."""

import json
from typing import Any

import pytest

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest.fields import InvalidLine
from ledger.cli.payments.transfer_lines import TransferParser
from ledger.v1 import payment_pb2

FIELDS = {
    "payment_id": "pay_1",
    "payer_account_id": "acc_1",
    "payee_account_id": "acc_2",
    "amount_minor": 1250,
    "currency": "PEN",
}
TRANSFER = payment_pb2.Transfer(
    payment_id="pay_1",
    payer_account_id="acc_1",
    payee_restaurant_id="res_1",
    amount_minor=1250,
    currency="PEN",
    fee_minor=50,
    reference="table 4, left",
    metadata={"city": "Lima"},
)
HEADER = (
    "payment_id,payer_account_id,payee_account_id,payee_restaurant_id,amount_minor,currency,"
    "fee_minor,reference,metadata.city"
)


def line_of(**fields: Any) -> str:
    return json.dumps(FIELDS | fields)


def test_both_formats_become_the_same_transfer() -> None:
    """With every field. An empty cell and null are absent."""
    line = line_of(
        payee_account_id=None,
        payee_restaurant_id="res_1",
        fee_minor=50,
        reference="table 4, left",
        metadata={"city": "Lima"},
    )
    assert TransferParser()(line) == TRANSFER
    parse = TransferParser()
    assert parse(f"{HEADER}\r\n") is None
    assert parse('pay_1,acc_1,,res_1,1250,PEN,50,"table 4, left",Lima\r\n') == TRANSFER
    assert parse("pay_2,acc_1,acc_2,,1,PEN,,,\r\n") == payment_pb2.Transfer(
        payment_id="pay_2",
        payer_account_id="acc_1",
        payee_account_id="acc_2",
        amount_minor=1,
        currency="PEN",
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        (line_of(amount_minor="1250"), "amount_minor must be a whole number of minor units"),
        (line_of(amount_minor=12.5), "amount_minor must be digits only, such as 1250"),
        (line_of(amount_minor=None), "amount_minor is missing"),
        (line_of(amount=12), "amount is not a field of a transfer"),
        (line_of(linked=True), "linked is not a field of a transfer"),
        (line_of(payee_account_id=None), "payee_account_id or payee_restaurant_id: give one"),
        (line_of(payee_restaurant_id="res_1"), "payee_account_id or payee_restaurant_id: give one"),
    ],
)
def test_bad_line_says_what_is_wrong(line: str, says: str) -> None:
    """In the words of its fields."""
    parse = TransferParser()
    assert parse(line_of()) is not None
    with pytest.raises(InvalidLine) as caught:
        parse(line)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("pay_1,acc_1", "has 2 cells for 9 columns"),
        ('pay_1,"acc_1', "is not CSV"),
        (
            "pay_1,acc_1,acc_2,,-5,PEN,,,",
            "amount_minor must be digits only, such as 1250 for 12.50 PEN (it is '-5')",
        ),
        ("pay_1,acc_1,acc_2,,12.50,PEN,,,", "amount_minor must be digits only"),
        ('pay_1,acc_1,acc_2,,"1,250",PEN,,,', "amount_minor must be digits only"),
        ("pay_1,acc_1,,res_1,1250,PEN,1 0,,", "fee_minor must be digits only"),
        (f"pay_1,acc_1,acc_2,,{'1' * 5000},PEN,,,", "amount_minor must be a whole number"),
        (f"pay_1,acc_1,acc_2,,{2**63},PEN,,,", "amount_minor must fit 64 bits"),
        ("pay_1,acc_1,acc_2,,,PEN,,,", "amount_minor is missing"),
    ],
)
def test_bad_row_says_what_is_wrong(row: str, says: str) -> None:
    """Rows beside it are read."""
    parse = TransferParser()
    parse(HEADER)
    with pytest.raises(InvalidLine) as caught:
        parse(row)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("nothing", "the first line is neither a JSON object nor the header of a CSV file"),
        ("payment_id,amount", "the first line is neither"),
        ("payment_id,metadata", "the first line is neither"),
        ('payment_id,"x', "the first line is neither"),
        ("payment_id,currency,payment_id", "the header names a column twice"),
    ],
)
def test_wrong_header_ends_the_command(header: str, says: str) -> None:
    """Each row would be wrong."""
    with pytest.raises(CommandFailure) as caught:
        TransferParser()(header)
    assert caught.value.lines[0].startswith(says)
    assert caught.value.exit_status is ExitStatus.USAGE


@pytest.mark.parametrize(
    ("header", "advice"),
    [
        ("payment_id;currency", "cells are separated by ';': this needs commas"),
        ("payment_id\tcurrency", r"cells are separated by '\t': this needs commas"),
        ("payment_id,amount", "use amount_minor, in whole minor units: 1250 for 12.50 PEN"),
        ("payment_id,fee", "use fee_minor, in whole minor units: 1250 for 12.50 PEN"),
    ],
)
def test_common_mistakes_in_the_header_get_advice(header: str, advice: str) -> None:
    """Beside the list of all fields."""
    with pytest.raises(CommandFailure) as caught:
        TransferParser()(header)
    assert caught.value.lines[1] == advice
    assert caught.value.lines[2].startswith("these are: payment_id, ")
