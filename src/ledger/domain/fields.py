"""What the fields of requests may hold: the rules that several messages share."""

import re
from collections.abc import Mapping
from datetime import timedelta

ID_LENGTH_MAX = 128
REFERENCE_LENGTH_MAX = 255
METADATA_BYTES_MAX = 8 * 1024
NAME_LENGTH_MAX = 200
CODE_LENGTH_MAX = 64
TEXT_LENGTH_MAX = 500

# Enough for the clock of a processor that is a little ahead of ours.
CLOCK_SKEW_MAX = timedelta(minutes=5)

# \Z and not $: the latter would let a final newline pass.
_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{ID_LENGTH_MAX}}}\Z")
_CODE = re.compile(rf"[A-Za-z0-9._:-]{{1,{CODE_LENGTH_MAX}}}\Z")
_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

ID_RULE = f"must be 1 to {ID_LENGTH_MAX} characters of A-Z a-z 0-9 . _ : -"
REFERENCE_RULE = f"must be at most {REFERENCE_LENGTH_MAX} printable ASCII characters"
CODE_RULE = f"must be 1 to {CODE_LENGTH_MAX} characters of A-Z a-z 0-9 . _ : -, or empty"
TEXT_RULE = f"must be at most {TEXT_LENGTH_MAX} characters, none of them a control character"
METADATA_RULE = f"must be at most {METADATA_BYTES_MAX} bytes of keys and values, without NUL"
HOLD_REASON_RULE = f"must be 1 to {NAME_LENGTH_MAX} characters, none of them a control character"
NAME_RULE = f"must be at most {NAME_LENGTH_MAX} characters, none of them a control character"


def is_id(text: str) -> bool:
    """Whether `text` can be an id.

    Ids are compared byte by byte, so nothing is trimmed or folded first.
    """
    return _ID.match(text) is not None


def is_reference(text: str) -> bool:
    """Whether `text` can be a processor's reference; empty is one."""
    return len(text) <= REFERENCE_LENGTH_MAX and _PRINTABLE_ASCII.match(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` can be a name for people; empty is one."""
    return len(text) <= NAME_LENGTH_MAX and _CONTROL.search(text) is None


def after_prefix(prefix: str) -> str:
    """The first text, in the byte order of ids, after all ids that begin with `prefix`, not empty.

    The last character is never the last one there is, since no id has that.
    """
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def is_code(text: str) -> bool:
    """Whether `text` can be a bank's code for a failure; empty is not one."""
    return _CODE.match(text) is not None


def is_text(text: str) -> bool:
    """Whether `text` can be a bank's words for people; empty is none."""
    return len(text) <= TEXT_LENGTH_MAX and _CONTROL.search(text) is None


def has_control(text: str) -> bool:
    """Whether `text` has a control character."""
    return _CONTROL.search(text) is not None


def is_metadata(metadata: Mapping[str, str]) -> bool:
    """Whether keys and values together stay within METADATA_BYTES_MAX and can be stored as
    PostgreSQL text.
    """
    size_bytes = 0
    for key, value in metadata.items():
        if "\0" in key or "\0" in value:
            return False
        size_bytes += len(key.encode()) + len(value.encode())
    return size_bytes <= METADATA_BYTES_MAX
