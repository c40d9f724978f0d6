"""`ledger settings`: the settings in force, and where each comes from."""

import os
import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ledger.cli.options_given import given_options
from ledger.cli.output import JsonValue, Table, print_json_lines, print_table
from ledger.cli.parameters import json_lines_option

if TYPE_CHECKING:
    from ledger.settings import Settings

HELP = """
Show every setting in force, and where it comes from: an option before the name
of the command, the environment, the file .env in the working directory, or its
default. Passwords are not shown.

Some commands have options for more settings, such as --workers.
"""

# A URL holds the password between the name and the host, or among the parameters.
_PASSWORD = re.compile(r"(?<=://)([^/@]*?):[^/]*@|(?<=[?&]password=)[^&]*")
_HIDDEN = "***"


@click.command(help=HELP)
@json_lines_option
def settings(json: bool) -> None:
    # Imported here: `--help` must not wait for these.
    from ledger.cli.configuration import load_settings
    from ledger.settings import Settings

    found = load_settings()
    rows = [
        (f"LEDGER_{field.upper()}", _shown(field, found), _source_of(field))
        for field in Settings.model_fields
    ]
    if json:
        print_json_lines(
            dict[str, JsonValue](name=name, value=value, source=source)
            for name, value, source in rows
        )
        return
    table = Table(("setting", "value", "from"))
    for row in rows:
        table.add(*row)
    print_table(table)


def _shown(field: str, settings: "Settings") -> str:
    value = getattr(settings, field)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum | Path):
        return str(value)
    return without_password(value) if field.endswith("_url") else str(value).removesuffix(".0")


def without_password(url: str) -> str:
    """The URL as people write it, with *** instead of the password."""
    shown = url.replace("postgresql+asyncpg://", "postgresql://", 1)
    return _PASSWORD.sub(
        lambda match: _HIDDEN if match[1] is None else f"{match[1]}:{_HIDDEN}@", shown
    )


def _source_of(field: str) -> str:
    """Where the setting's value comes from. An empty variable counts as not set."""
    from dotenv import dotenv_values

    from ledger.settings import ENV_FILE

    name = f"ledger_{field}"
    if field in given_options():
        return "option"
    if any(key.lower() == name and value for key, value in os.environ.items()):
        return "environment"
    if any(key.lower() == name and value for key, value in dotenv_values(ENV_FILE).items()):
        return ENV_FILE
    return "default"
