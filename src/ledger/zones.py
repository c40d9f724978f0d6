"""The zone table of the package tzdata.

Every server uses it and not its host's table, so all servers cut off at the same instant.
"""

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
    """The zone of an IANA name. Raises ValueError for any other name.

    `ZoneInfo(name)` would prefer the host's table, which may have another version, or `localtime`,
    the zone of one host.
    """
    if name not in _names():
        raise ValueError(
            "must be an IANA time zone such as America/Lima; not localtime, Factory, posixrules, "
            "or a name under posix/ or right/"
        )
    with files(_PACKAGE).joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


@cache
def _names() -> frozenset[str]:
    names = files(_PACKAGE).joinpath("zones").read_text(encoding="utf-8").split()
    # Factory stands for a zone that is not set.
    return frozenset(names) - {"Factory"}
