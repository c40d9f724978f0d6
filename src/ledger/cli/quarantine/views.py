"""Shows payloads of the quarantine as tables for people and as JSON for programs."""

import base64
import json
import re
from collections.abc import Iterable, Iterator

from ledger.cli.instants import format_instant
from ledger.cli.output import JsonValue, Table, facts
from ledger.cli.words import prefix_of, word_of, words_of
from ledger.v1 import ledger_pb2

STATES = ledger_pb2.QuarantineState
STATE_PREFIX, STATE_WORDS = prefix_of(STATES), words_of(STATES)

# A string, a sign, or a number or word of JSON.
_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_INDENT = "  "


def state_of(payload: ledger_pb2.QuarantinedPayload) -> str:
    """The state in lower case."""
    return word_of(STATES, payload.state)


def payloads_table(payloads: Iterable[ledger_pb2.QuarantinedPayload]) -> Table:
    """Payloads, one a row."""
    titles = ("payload", "endpoint", "kind", "state", "reason", "stored", "retry at")
    table = Table(titles, optional=("retry at", "kind", "stored"))
    for payload in payloads:
        table.add(
            payload.quarantine_id,
            payload.endpoint,
            payload.kind,
            state_of(payload),
            payload.reason,
            format_instant(payload.created_at),
            format_instant(payload.retry_at) if payload.HasField("retry_at") else "",
        )
    return table


def payload_table(payload: ledger_pb2.QuarantinedPayload) -> Table:
    """A payload without its headers, its moves and its body."""
    table = facts()
    table.add("payload", payload.quarantine_id)
    table.add("endpoint", payload.endpoint)
    table.add("processor", payload.processor)
    if payload.kind:
        table.add("kind", payload.kind)
    table.add("state", state_of(payload))
    table.add("reason", payload.reason)
    if payload.detail:
        table.add("detail", payload.detail)
    if payload.HasField("retry_at"):
        table.add("retry at", format_instant(payload.retry_at))
    table.add("received", format_instant(payload.received_at))
    table.add("stored", format_instant(payload.created_at))
    table.add("moved", format_instant(payload.moved_at))
    if payload.query:
        table.add("query", payload.query)
    table.add("body", f"{payload.body_size_bytes} bytes")
    return table


def headers_table(payload: ledger_pb2.QuarantinedPayload) -> Table:
    """The headers that were kept."""
    table = Table(("header", "value"))
    for name, value in sorted(payload.headers.items()):
        table.add(name, value)
    return table


def moves_table(payload: ledger_pb2.QuarantinedPayload) -> Table:
    """The moves of a payload, oldest first."""
    titles = ("move", "state", "reason", "detail", "events", "by", "recorded")
    table = Table(titles, right=frozenset(("move",)), optional=("events", "by"))
    for move in payload.moves:
        table.add(
            str(move.number),
            word_of(STATES, move.state),
            move.reason,
            move.detail,
            " ".join(move.event_ids),
            move.actor,
            format_instant(move.recorded_at),
        )
    return table


def body_lines(body: bytes) -> Iterator[str]:
    """The lines of a body: of JSON one value a line, indented, each as it was sent.

    Not by reading and writing it as JSON: that would change numbers, and drop names that come
    twice.
    """
    text = body.decode("utf-8", "backslashreplace")
    try:
        json.loads(body.decode(), strict=False)
    # A number or a depth that Python does not read is JSON, too. Then the text is shown as it is.
    except (ValueError, RecursionError):
        yield from text.splitlines()
        return
    line, depth, before = "", 0, ""
    for part in _PART.findall(text):
        if part in ("}", "]"):
            depth -= 1
            if before not in ("{", "["):
                yield line
                line = _INDENT * depth
        elif before in ("{", "[", ","):
            yield line
            line = _INDENT * depth
        line += ": " if part == ":" else part
        if part in ("{", "["):
            depth += 1
        before = part
    yield line


def json_of_payload(
    payload: ledger_pb2.QuarantinedPayload, *, whole: bool = False
) -> dict[str, JsonValue]:
    """A payload; if `whole` with its body and its moves.

    `body` is null if the body is not UTF-8; `body_base64` always has all of it.
    """
    shown: dict[str, JsonValue] = {
        "quarantine_id": payload.quarantine_id,
        "endpoint": payload.endpoint,
        "processor": payload.processor,
        "kind": payload.kind or None,
        "state": state_of(payload),
        "move_number": payload.move_number,
        "reason": payload.reason,
        "detail": payload.detail or None,
        "retry_at": format_instant(payload.retry_at) if payload.HasField("retry_at") else None,
        "received_at": format_instant(payload.received_at),
        "created_at": format_instant(payload.created_at),
        "moved_at": format_instant(payload.moved_at),
        "headers": dict(sorted(payload.headers.items())),
        "query": payload.query,
        "body_size_bytes": payload.body_size_bytes,
    }
    if whole:
        shown["body"] = _text_or_none(payload.body)
        shown["body_base64"] = base64.b64encode(payload.body).decode()
        shown["moves"] = [
            {
                "number": move.number,
                "state": word_of(STATES, move.state),
                "reason": move.reason or None,
                "detail": move.detail or None,
                "event_ids": list(move.event_ids),
                "retry_at": format_instant(move.retry_at) if move.HasField("retry_at") else None,
                "actor": move.actor or None,
                "recorded_at": format_instant(move.recorded_at),
            }
            for move in payload.moves
        ]
    return shown


def _text_or_none(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
