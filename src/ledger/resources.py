"""Finds the files that come with the code and are not Python modules: migrations and SQL.

In a checkout they are in the top folder, where people look for them. In an installed wheel they are
beside the modules.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """The path of a file or folder, such as resource("sql", "invariants.sql").

    Raises FileNotFoundError.
    """
    for root in (_PACKAGE / "_resources", _PACKAGE.parent.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError("/".join(parts))
