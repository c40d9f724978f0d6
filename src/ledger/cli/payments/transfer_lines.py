"""Reads the lines of a file of transfers: JSON objects, or CSV with a header."""

import csv
import re
from typing import Any

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest.fields import (
    Field,
    InvalidLine,
    parse_object,
    read_fields,
    read_metadata,
    read_minor,
    read_text,
)
from ledger.errors import FieldViolation
from ledger.v1 import payment_pb2

# A column of CSV that holds one key of the metadata: metadata.city.
_METADATA_COLUMN = "metadata."


def _read_digits(value: Any) -> int:
    """A whole number of minor units. Raises ValueError with the rule."""
    if isinstance(value, str) and not re.fullmatch("[0-9]+", value):
        raise ValueError(f"must be digits only, such as 1250 for 12.50 PEN (it is {value[:40]!r})")
    return read_minor(value)


_FIELDS = {
    "payment_id": Field(("payment_id",), read_text, is_required=True),
    "payer_account_id": Field(("payer_account_id",), read_text, is_required=True),
    "payee_account_id": Field(("payee_account_id",), read_text),
    "payee_restaurant_id": Field(("payee_restaurant_id",), read_text),
    "amount_minor": Field(("amount_minor",), _read_digits, is_required=True),
    "currency": Field(("currency",), read_text, is_required=True),
    "fee_minor": Field(("fee_minor",), _read_digits),
    "reference": Field(("reference",), read_text),
    "metadata": Field(("metadata",), read_metadata),
}
_NUMBERS = ("amount_minor", "fee_minor")
# What programs write between cells instead of commas.
_OTHER_SEPARATORS = (";", "\t", "|")


class TransferParser:
    """Turns the lines of one file into transfers. The first line says which format the file has."""

    def __init__(self) -> None:
        self._is_json: bool | None = None
        self._columns: list[str] = []

    def __call__(self, line: str) -> payment_pb2.Transfer | None:
        """The transfer in `line`; None for the header of CSV.

        Raises InvalidLine with all violations, CommandFailure for a header that is wrong.
        """
        if self._is_json is None:
            self._is_json = line.lstrip().startswith("{")
            if not self._is_json:
                self._columns = _columns_of(line)
                return None
        return _transfer_of(parse_object(line) if self._is_json else self._object_of(line))

    def _object_of(self, line: str) -> dict[str, Any]:
        """The row as the same object that a line of JSON has; an empty cell is absent."""
        cells = _cells_of(line)
        if len(cells) != len(self._columns):
            raise InvalidLine(
                [FieldViolation("", f"has {len(cells)} cells for {len(self._columns)} columns")]
            )
        members: dict[str, Any] = {}
        metadata: dict[str, str] = {}
        for column, cell in zip(self._columns, cells, strict=True):
            if not cell:
                continue
            if column.startswith(_METADATA_COLUMN):
                metadata[column.removeprefix(_METADATA_COLUMN)] = cell
            else:
                members[column] = _number_in(cell) if column in _NUMBERS else cell
        return members | {"metadata": metadata}


def _transfer_of(members: dict[str, Any]) -> payment_pb2.Transfer:
    values = read_fields(members, _FIELDS, "a transfer")
    if (values["payee_account_id"] is None) == (values["payee_restaurant_id"] is None):
        raise InvalidLine(
            [FieldViolation("payee_account_id", "or payee_restaurant_id: give one of them")],
            values["payment_id"],
        )
    return payment_pb2.Transfer(**values)


def _columns_of(line: str) -> list[str]:
    """The columns that a header names. Raises CommandFailure."""
    known = _FIELDS.keys() - {"metadata"}
    try:
        columns = _cells_of(line)
    except InvalidLine:
        columns = [line]
    for column in columns:
        if column not in known and not column.startswith(_METADATA_COLUMN):
            raise CommandFailure(
                "the first line is neither a JSON object nor the header of a CSV file:"
                f" {column[:40]!r} is not a field of a transfer",
                *_advice(column),
                f"these are: {', '.join([*_FIELDS][:-1])} and metadata.KEY",
                exit_status=ExitStatus.USAGE,
            )
    if len(set(columns)) != len(columns):
        raise CommandFailure("the header names a column twice", exit_status=ExitStatus.USAGE)
    return columns


def _advice(column: str) -> list[str]:
    """What to do about a column that is no field, where that is known."""
    if f"{column}_minor" in _FIELDS:
        return [f"use {column}_minor, in whole minor units: 1250 for 12.50 PEN"]
    return [
        f"cells are separated by {separator!r}: this needs commas"
        for separator in _OTHER_SEPARATORS
        if separator in column
    ]


def _cells_of(line: str) -> list[str]:
    """The cells of a row. A row is one line: no field of a transfer has an end of line."""
    try:
        (cells,) = csv.reader([line.rstrip("\r\n")], strict=True)
    except csv.Error as error:
        raise InvalidLine([FieldViolation("", f"is not CSV: {error}")]) from None
    return cells


def _number_in(cell: str) -> int | str:
    """The number that the cell writes in digits; another text is refused as it would be in JSON."""
    return int(cell) if re.fullmatch("[0-9]{1,20}", cell) else cell
