"""The settings of a command that calls the server.

Loading the libraries that check all settings takes longer than most calls. The settings of a client
are an address and file names, which this module checks itself. If any other setting is set,
`load_settings` checks all of them, as for every command.
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
    """The server's address, and the credentials to send."""

    grpc_address: str = DEFAULT_ADDRESS
    client_tls_ca_file: Path | None = None
    client_tls_certificate_file: Path | None = None
    client_tls_key_file: Path | None = None
    client_token_file: Path | None = None


_FIELDS = tuple(field.name for field in fields(ClientSettings))
_NAMES = {f"{_PREFIX}{field.upper()}": field for field in _FIELDS}


def load_client_settings(address: str | None = None) -> ClientSettings:
    """Loads the settings; `address`, if given, replaces LEDGER_GRPC_ADDRESS.

    Raises CommandFailure.
    """
    variables = _variables()
    values = {_NAMES[name]: value for name, value in variables.items() if name in _NAMES}
    values |= {field: str(value) for field, value in given_options(grpc_address=address).items()}
    files = {field: Path(value) for field, value in values.items() if field != "grpc_address"}
    grpc_address = values.get("grpc_address", DEFAULT_ADDRESS)
    if (
        variables.keys() <= _NAMES.keys()
        and is_address(grpc_address)
        and not any(map(_begins_with_home, files.values()))
    ):
        return ClientSettings(grpc_address, **files)
    # Imported when needed: the docstring of this module says why.
    from ledger.cli.configuration import load_settings

    settings = load_settings(address)
    return ClientSettings(**{field: getattr(settings, field) for field in _FIELDS})


def _variables() -> Mapping[str, str]:
    """The variables that begin with LEDGER_, from .env and from the environment, which wins.

    An empty value counts as not set.
    """
    variables: dict[str, str] = {}
    if _ENV_FILE.exists():
        from dotenv import dotenv_values

        try:
            variables |= {name: value or "" for name, value in dotenv_values(_ENV_FILE).items()}
        except (OSError, UnicodeDecodeError):
            # This name is no setting of a client, so `load_settings` runs and reports the problem.
            return {_PREFIX: str(_ENV_FILE)}
    variables |= {name: value for name, value in os.environ.items() if value}
    return {
        name: value
        for name, value in variables.items()
        if name.upper().startswith(_PREFIX) and value
    }


def _begins_with_home(path: Path) -> bool:
    """Whether only `load_settings` can resolve `path`: it expands ~."""
    return str(path).startswith("~")
