"""The zone table: that of the package tzdata, so that every server cuts off at the same instant, whatever its host has."""

from functools import cache
from importlib.metadata import version
from importlib.resources import files
from zoneinfo import ZoneInfo

_PACKAGE = "tzdata"


def zone_table_version() -> str:
    """The version of the zone table, such as 2026.6."""
    return version(_PACKAGE)


@cache
def settlement_zone(name: str) -> ZoneInfo:
    """The zone of that IANA name. Raises ValueError for any other name.

    `ZoneInfo(name)` prefers the host's table, which is of another version or has `localtime`, the
    zone of one host.
    """
    if name not in _names():
        raise ValueError(
            "must be an IANA time zone such as America/Lima; not localtime, Factory, posixrules, or a name under posix/ or right/"
        )
    with files(_PACKAGE).joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


@cache
def _names() -> frozenset[str]:
    names = files(_PACKAGE).joinpath("zones").read_text(encoding="utf-8").split()
    # Factory stands for a zone that nobody has set.
    return frozenset(names) - {"Factory"}
