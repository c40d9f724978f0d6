"""The settings of a command; what is wrong with them is told by the names under which people set them."""

from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.settings import Settings

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Where the server is: host:port, or unix:path. Default: LEDGER_GRPC_ADDRESS.",
        show_default=False,
    ),
]

# What a value must be, by pydantic's name of the error; its own texts speak to programmers.
_RULE_BY_ERROR_TYPE = {
    "bool_parsing": "must be true or false",
    "enum": "must be {expected}",
    "float_parsing": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "value_error": "{error}",
}


def load_settings(address: str | None = None) -> Settings:
    """The settings, with `address` in the place of LEDGER_GRPC_ADDRESS if it is given.

    Raises CommandFailure with a line for each setting that is not as it must be.
    """
    given = {} if address is None else {"grpc_address": address}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic's plugin knows no keyword dictionaries
    except ValidationError as error:
        lines = [_describe(found, given) for found in error.errors()]
    except (SettingsError, UnicodeDecodeError, OSError) as error:
        lines = [f"the settings cannot be read: {error}"]
    if len(lines) > 1:
        lines.insert(0, f"{len(lines)} settings are not as they must be:")
    raise CommandFailure(*lines, exit_status=ExitStatus.USAGE)


def _describe(found: ErrorDetails, given: dict[str, str]) -> str:
    field = str(found["loc"][0]) if found["loc"] else ""
    name = "--address" if field in given else f"LEDGER_{field.upper()}"
    context: dict[str, Any] = found.get("ctx", {})
    if found["type"] == "string_pattern_mismatch" and field == "grpc_address":
        rule = "must be host:port or unix:path"
    elif found["type"] in _RULE_BY_ERROR_TYPE:
        rule = _RULE_BY_ERROR_TYPE[found["type"]].format_map(context)
    else:
        rule = f"is not valid: {found['msg']}"
    # A URL may hold a password.
    shown = "" if field.endswith("_url") else f" (it is {str(found['input'])!r})"
    return f"{name} {rule}{shown}"
