"""The pairs of keys and values that callers store with restaurants, accounts and payments."""

import json
from collections.abc import Iterable, Mapping

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import JsonValue, Table


def pairs_of(texts: Iterable[str]) -> dict[str, str]:
    """The pairs that options give as KEY=VALUE. Raises CommandFailure."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or key in pairs:
            raise CommandFailure(
                f"--metadata must be KEY=VALUE, each key once (it is {text!r})",
                exit_status=ExitStatus.USAGE,
            )
        pairs[key] = value
    return pairs


def changed_keys(pairs: Mapping[str, object], removed: Iterable[str]) -> list[str]:
    """The keys to set or remove, sorted. Raises CommandFailure for a key that is both."""
    if both := sorted(set(removed) & pairs.keys()):
        raise CommandFailure(f"{both[0]!r} is both set and removed", exit_status=ExitStatus.USAGE)
    return sorted({*pairs, *removed})


def add_pairs(table: Table, metadata: Mapping[str, str]) -> None:
    """Adds a row for each pair to a table of names and values."""
    for key in sorted(metadata):
        # As JSON text, which escapes what could control a terminal.
        table.add("metadata", f"{json.dumps(key)}: {json.dumps(metadata[key])}")


def json_of_pairs(metadata: Mapping[str, str]) -> dict[str, JsonValue]:
    """The pairs sorted by their keys."""
    return {key: metadata[key] for key in sorted(metadata)}
