"""Instants as reports write them, with an offset, the abbreviation of a zone, or none."""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from ledger.zones import settlement_zone

# Abbreviations that processors write, in minutes from UTC. Left out are those that name several
# zones, such as IST.
_MINUTES_BY_ABBREVIATION = {
    "UTC": 0, "GMT": 0, "WET": 0, "Z": 0,
    "WEST": 60, "BST": 60, "CET": 60, "CEST": 120, "EET": 120, "EEST": 180, "MSK": 180,
    "EST": -300, "EDT": -240, "CST": -360, "CDT": -300, "MST": -420, "MDT": -360,
    "PST": -480, "PDT": -420, "AKST": -540, "AKDT": -480, "HST": -600,
    "ART": -180, "BRT": -180, "CLT": -240, "CLST": -180, "COT": -300, "PET": -300, "UYT": -180,
    "SGT": 480, "HKT": 480, "JST": 540, "KST": 540, "AWST": 480, "ACST": 570, "ACDT": 630,
    "AEST": 600, "AEDT": 660, "NZST": 720, "NZDT": 780,
}  # fmt: skip
_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    r"(?:[Tt ]\s*([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?)?"
    r"\s*([A-Za-z]{1,5}|[+-][0-9]{2}:?[0-9]{2})?"
)
_RULE = "must be an instant such as 2026-09-15 10:22:31"

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def zone_of(name: str) -> tzinfo:
    """The zone of an abbreviation (PST), an offset (-04:00) or an IANA name (America/Lima).

    Raises ValueError.
    """
    offset = re.fullmatch(r"(?:GMT|UTC)?([+-])([0-9]{1,2}):?([0-9]{2})?", name)
    if offset is not None:
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        if minutes >= 24 * 60 or int(offset[3] or 0) > 59:
            raise ValueError(f"{name!r} is no offset from UTC")
        return timezone(timedelta(minutes=minutes if offset[1] == "+" else -minutes))
    if name.upper() in _MINUTES_BY_ABBREVIATION:
        return timezone(timedelta(minutes=_MINUTES_BY_ABBREVIATION[name.upper()]))
    try:
        return settlement_zone(name)
    except ValueError:
        raise ValueError(
            f"{name!r} is no time zone known here: use an IANA name such as America/Lima, or an"
            " offset such as -05:00"
        ) from None


def read_instant(
    text: str, zone: tzinfo | None, pattern: str | None = None
) -> tuple[datetime, timedelta]:
    """The instant in UTC, and how exact it is: a second, a minute or a day.

    `zone` holds where the text names none. `pattern` is one of `strptime`, for dates that are not
    written as ISO 8601 has them. Raises ValueError with the rule.
    """
    if pattern is not None:
        return _by_pattern(text, zone, pattern)
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError(_RULE)
    year, month, day, hour, minute, second, fraction, written = match.groups()
    if written is not None:
        zone = zone_of(written)
    try:
        local = datetime(  # noqa: DTZ001  # the zone follows
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            int((fraction or "").ljust(6, "0")[:6]),
        )  # fmt: skip
    except ValueError:
        raise ValueError(f"{_RULE}; there is no such date or time") from None
    exact = DAY if hour is None else MINUTE if second is None else SECOND
    return _in_utc(local, zone), exact


def _by_pattern(text: str, zone: tzinfo | None, pattern: str) -> tuple[datetime, timedelta]:
    try:
        local = datetime.strptime(text, pattern)  # noqa: DTZ007  # the zone follows
    except ValueError:
        raise ValueError(f"must be a date as {pattern} has it") from None
    has_hour = any(part in pattern for part in ("%H", "%I", "%c", "%X"))
    return _in_utc(local, zone), SECOND if has_hour else DAY


def _in_utc(local: datetime, zone: tzinfo | None) -> datetime:
    if local.tzinfo is None:
        if zone is None:
            raise ValueError("names no time zone: name it with --timezone")
        local = local.replace(tzinfo=zone)
    try:
        return local.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{_RULE}; there is no such date or time") from None
