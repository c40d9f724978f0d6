"""The settings of a command that calls the server.

Checking all settings takes longer than most calls, for the libraries that it loads. Where only those of a client are set, which
are texts, there is nothing to check that this module cannot; anywhere else the whole settings are checked as for every command.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ledger.addresses import DEFAULT_ADDRESS, is_address
from ledger.cli.options_given import given_options

_PREFIX = "LEDGER_"
_ENV_FILE = Path(".env")


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where the server is, and what to show it."""

    grpc_address: str = DEFAULT_ADDRESS
    client_tls_ca_file: Path | None = None
    client_tls_certificate_file: Path | None = None
    client_tls_key_file: Path | None = None
    client_token_file: Path | None = None


_FIELDS = tuple(field.name for field in fields(ClientSettings))
_NAMES = {f"{_PREFIX}{field.upper()}": field for field in _FIELDS}


def load_client_settings(address: str | None = None) -> ClientSettings:
    """The settings, with `address` in the place of LEDGER_GRPC_ADDRESS if it is given. Raises CommandFailure."""
    variables = _variables()
    values = {_NAMES[name]: value for name, value in variables.items() if name in _NAMES}
    values |= {field: str(value) for field, value in given_options(grpc_address=address).items()}
    files = {field: Path(value) for field, value in values.items() if field != "grpc_address"}
    grpc_address = values.get("grpc_address", DEFAULT_ADDRESS)
    if (
        variables.keys() <= _NAMES.keys()
        and is_address(grpc_address)
        and not any(map(_needs_a_home, files.values()))
    ):
        return ClientSettings(grpc_address, **files)
    # Imported when needed, as the head of this module says.
    from ledger.cli.configuration import load_settings

    settings = load_settings(address)
    return ClientSettings(**{field: getattr(settings, field) for field in _FIELDS})


def _variables() -> Mapping[str, str]:
    """What is set under names that look like settings, in the file and in the environment, which wins; empty is not set."""
    variables: dict[str, str] = {}
    if _ENV_FILE.exists():
        from dotenv import dotenv_values

        try:
            variables |= {name: value or "" for name, value in dotenv_values(_ENV_FILE).items()}
        except (OSError, UnicodeDecodeError):
            # No setting of a client: so the whole settings are read, which tell what is wrong with the file.
            return {_PREFIX: str(_ENV_FILE)}
    variables |= {name: value for name, value in os.environ.items() if value}
    return {
        name: value
        for name, value in variables.items()
        if name.upper().startswith(_PREFIX) and value
    }


def _needs_a_home(path: Path) -> bool:
    return str(path).startswith("~")
