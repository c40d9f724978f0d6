"""Where the files are that come with the code but are not Python modules: migrations and SQL.

In a checkout they stand at the top, where people look for them; in an installed wheel they are packed beside the modules.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """The file or folder named by `parts`, for example resource("sql", "invariants.sql"). Raises FileNotFoundError."""
    for root in (_PACKAGE / "_resources", _PACKAGE.parent.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError("/".join(parts))
