"""Loads the settings of a command, and reports errors by the names that people set."""

import difflib
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from ledger.cli.failures import CommandFailure, ExitStatus, report
from ledger.cli.options_given import given_options
from ledger.settings import ENV_FILE, Settings

_ADDRESS_RULES = {
    "grpc_address": "must be host:port or unix:path",
    "health_address": "must be host:port or unix:path",
    "metrics_address": "must be host:port",
}
SETTING_NAMES = frozenset(f"LEDGER_{field.upper()}" for field in Settings.model_fields)
KNOWN_NAMES = SETTING_NAMES | {
    "LEDGER_PG_BIN",  # the embedded PostgreSQL
    "LEDGER_APP_PASSWORD",  # docker-compose.yml
    "LEDGER_OWNER_PASSWORD",
    "LEDGER_FUZZ_CASES",  # tests
    "LEDGER_FUZZ_EXAMPLES",
    "LEDGER_FUZZ_SEED",
}
# Kubernetes puts such variables into every container if the name of a service begins with ledger.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_[0-9]+_(TCP|UDP)(_|$)")

# Settings that have an option on the command line.
_OPTION_BY_FIELD = {
    "grpc_address": "--address",
    "workers": "--workers",
    "client_tls_ca_file": "--tls-ca",
    "client_tls_certificate_file": "--tls-cert",
    "client_tls_key_file": "--tls-key",
    "client_token_file": "--token-file",
}
# What a value must be, by pydantic's name of the error; pydantic's texts are for programmers.
_RULE_BY_ERROR_TYPE = {
    "bool_parsing": "must be true or false",
    "enum": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "value_error": "{error}",
}


def load_settings(
    address: str | None = None, *, workers: int | None = None, env_file: str | None = ENV_FILE
) -> Settings:
    """Loads the settings; `address` and `workers`, if given, replace those of the environment.

    Raises CommandFailure with a line for each invalid setting, and for each variable that looks
    like a setting and is none, unless LEDGER_ALLOW_UNKNOWN_SETTINGS is set.
    """
    given = given_options(grpc_address=address, workers=workers)
    try:
        # pydantic's plugin for mypy does not know dictionaries of keywords.
        settings = Settings(_env_file=env_file, **given)  # type: ignore[arg-type]
        lines = [] if settings.allow_unknown_settings else _unknown_lines(env_file)
        if not lines:
            return settings
        lines.append("LEDGER_ALLOW_UNKNOWN_SETTINGS=true ignores them")
    except ValidationError as error:
        lines = [_describe(found, given) for found in error.errors()] + _unknown_lines(env_file)
    except (SettingsError, UnicodeDecodeError, OSError) as error:
        lines = [f"the settings cannot be read: {error}"]
    else:
        raise CommandFailure(*lines, exit_status=ExitStatus.USAGE)
    if len(lines) > 1:
        lines.insert(0, f"{len(lines)} settings are wrong:")
    raise CommandFailure(*lines, exit_status=ExitStatus.USAGE)


def warn_of_unknown_settings() -> None:
    """Writes a warning for each unknown setting that LEDGER_ALLOW_UNKNOWN_SETTINGS let pass."""
    for line in _unknown_lines(ENV_FILE):
        report("warning", [line])


def _unknown_lines(env_file: str | None) -> list[str]:
    """A line for each variable that looks like a setting and is none: it is probably misspelt."""
    lines = []
    in_file = {} if env_file is None else dotenv_values(env_file)
    for name in sorted(unknown_settings({**in_file, **os.environ})):
        nearest = difflib.get_close_matches(name.upper(), SETTING_NAMES, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "`.env.example` lists them all"
        lines.append(f"{name} is not a setting: {hint}")
    return lines


def unknown_settings(variables: Mapping[str, str | None]) -> list[str]:
    """The names among `variables` that begin with LEDGER_ and that nothing reads."""
    return [
        name
        for name, value in variables.items()
        if name.upper().startswith("LEDGER_")
        and name.upper() not in KNOWN_NAMES
        and not name.upper().startswith("LEDGER_TEST_")
        and not _SERVICE_LINK.search(name.upper())
        and not (value or "").startswith(("tcp://", "udp://"))
    ]


def _describe(found: ErrorDetails, given: Collection[str]) -> str:
    field = str(found["loc"][0]) if found["loc"] else ""
    name = _OPTION_BY_FIELD[field] if field in given else f"LEDGER_{field.upper()}"
    context: dict[str, Any] = found.get("ctx", {})
    if found["type"] == "string_pattern_mismatch" and field in _ADDRESS_RULES:
        rule = _ADDRESS_RULES[field]
    elif found["type"] in _RULE_BY_ERROR_TYPE:
        rule = _RULE_BY_ERROR_TYPE[found["type"]].format_map(context)
    else:
        rule = f"is not valid: {found['msg']}"
    # A URL may hold a password.
    shown = "" if field.endswith("_url") else f" (it is {str(found['input'])!r})"
    return f"{name} {rule}{shown}"
