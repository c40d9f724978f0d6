"""Reads a mapping file: the layout of a report that is not built in, in TOML.

docs/reconciliation.md describes its keys, with an example.
"""

import tomllib
from typing import Any

from ledger.domain.money import is_currency
from ledger.reconciliation.instants import zone_of
from ledger.reconciliation.layouts import Kind, Layout, Presented, Template, columns_of, templates
from ledger.reconciliation.problems import Problem, ReportUnusable, shown

MAPPING_BYTES_MAX = 64 * 1024

_TOP = {
    "name", "title", "event_prefix", "required", "units", "decimal_mark", "timezone",
    "date_pattern", "event_dates", "payouts_close_groups", "columns", "kinds", "events",
    "fee_events", "owners",
}  # fmt: skip
_COLUMNS = {
    "kind", "currency", "gross", "fee", "tax", "net", "presented", "presented_currency", "rate",
    "occurred_at", "timezone", "row_id", "references", "group", "ids",
}  # fmt: skip
_KINDS = {kind.value: kind for kind in Kind}


class _Table:
    """A table of the file, whose values are read by their type."""

    def __init__(self, name: str, values: Any, known: set[str] | None) -> None:
        self.name = name
        if not isinstance(values, dict):
            raise _bad(name, "must be a table")
        for key in values:
            if known is not None and key not in known:
                raise _bad(
                    self._path(key), f"is no key of a mapping; known: {', '.join(sorted(known))}"
                )
        self.values: dict[str, Any] = values

    def _path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def text(self, key: str, default: str = "") -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise _bad(self._path(key), "must be a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; a single text is a list of one."""
        value = self.values.get(key, [])
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
            raise _bad(self._path(key), "must be a text or a list of texts")
        return tuple(value)

    def switch(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise _bad(self._path(key), "must be true or false")
        return value

    def word(self, key: str, words: tuple[str, ...]) -> str:
        value = self.text(key, words[0])
        if value not in words:
            raise _bad(self._path(key), f"must be one of {', '.join(map(repr, words))}")
        return value

    def templates_by_kind(self) -> dict[Kind, tuple[Template, ...]]:
        return {_kind(self._path(key), key): templates(*self.texts(key)) for key in self.values}


def read_mapping(raw: bytes) -> Layout:
    """The layout that a mapping file describes. Raises ReportUnusable with the key."""
    if len(raw) > MAPPING_BYTES_MAX:
        raise _bad("", f"is longer than {MAPPING_BYTES_MAX} bytes")
    try:
        values = tomllib.loads(raw.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _bad("", f"is not TOML: {error}") from None
    top = _Table("", values, _TOP)
    columns = _Table("columns", top.values.get("columns", {}), _COLUMNS)
    kinds = _Table("kinds", top.values.get("kinds", {}), None)
    zone = top.text("timezone")
    for name in (zone,) if zone else ():
        try:
            zone_of(name)
        except ValueError as error:
            raise _bad("timezone", str(error)) from None
    kind = columns.texts("kind")
    if not kind:
        raise _bad("columns.kind", "is missing: which column says what a row is about")
    net, gross = columns_of(*columns.texts("net")), columns_of(*columns.texts("gross"))
    if not (net or gross):
        raise _bad("columns.net", "is missing, and so is columns.gross: name one of them")
    presented = columns.texts("presented")
    layout = Layout(
        name=top.text("name", "mapped"),
        title=top.text("title", top.text("name", "mapped")),
        event_prefix=top.text("event_prefix"),
        required=top.texts("required") or (*kind, *(column.name for column in (*gross, *net)[:1])),
        kind=kind,
        kinds={
            " ".join(word.casefold().split()): _kind(f"kinds.{word}", kinds.text(word))
            for word in kinds.values
        },
        net=net,
        gross=gross,
        fee=columns_of(*columns.texts("fee")),
        tax=columns_of(*columns.texts("tax")),
        presented=Presented(
            columns_of(*presented), columns.text("presented_currency"), columns.text("rate")
        )
        if presented
        else None,
        currency=columns.text("currency"),
        occurred_at=tuple((name, zone) for name in columns.texts("occurred_at")),
        zone_column=columns.text("timezone"),
        has_event_dates=top.switch("event_dates", True),
        date_pattern=top.text("date_pattern") or None,
        row_id=templates(*(_in_braces(name) for name in columns.texts("row_id"))),
        references=columns.texts("references"),
        group=Template(_in_braces(columns.text("group"))),
        payouts_close_groups=top.switch("payouts_close_groups", bool(columns.text("group"))),
        events=_Table("events", top.values.get("events", {}), set(_KINDS)).templates_by_kind(),
        fee_events=_Table(
            "fee_events", top.values.get("fee_events", {}), set(_KINDS)
        ).templates_by_kind(),
        owners=templates(*top.texts("owners")),
        id_columns=columns.texts("ids"),
        decimal_mark=top.word("decimal_mark", ("", ".", ",")) or None,
        is_in_minor_units=top.word("units", ("major", "minor")) == "minor",
    )
    if is_currency(layout.currency):
        raise _bad("columns.currency", "is a currency: name a column here, and use --currency")
    return layout


def _in_braces(text: str) -> str:
    """A template: the name of a column alone stands for its cell."""
    return text if "{" in text or not text else f"{{{text}}}"


def _kind(path: str, word: str) -> Kind:
    if word not in _KINDS:
        raise _bad(path, f"must be one of {', '.join(_KINDS)} (it is {shown(word)})")
    return _KINDS[word]


def _bad(key: str, text: str) -> ReportUnusable:
    return ReportUnusable([Problem(0, key, text)])
