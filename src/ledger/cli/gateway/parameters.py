"""What the commands of the gateway share: the option --config, and how its file fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.parameters import FileName

Decorator = TypeVar("Decorator", bound=Callable[..., Any])

DEFAULT_FILE = "gateway.toml"
# A payload is smaller; a resource of a processor's API may have as much.
PAYLOAD_BYTES_MAX = 1024 * 1024


def config_option(function: Decorator) -> Decorator:
    """Adds --config."""
    return click.option(
        "--config",
        "config",
        type=FileName(),
        metavar="FILE",
        default=DEFAULT_FILE,
        help=f"The gateway's file.  [default: {DEFAULT_FILE}]",
    )(function)


@contextmanager
def gateway_failures() -> Iterator[None]:
    """Reports a missing extra, a faulty file and a taken address. Raises CommandFailure."""
    try:
        from ledger.gateway.configuration import ConfigurationError
        from ledger.gateway.server import AddressTaken
    except ModuleNotFoundError as error:
        raise CommandFailure(
            f"{error.name} is not installed: pip install 'ledger-service[gateway]'",
            exit_status=ExitStatus.USAGE,
        ) from error
    try:
        yield
    except ConfigurationError as error:
        raise CommandFailure(
            f"{error.path} cannot be used:", *error.problems, exit_status=ExitStatus.USAGE
        ) from error
    except AddressTaken as error:
        raise CommandFailure(str(error)) from error


def config_path(config: str | Path) -> Path:
    """The path that --config gives, or its default."""
    return Path(config).expanduser()


def read_payload(path: Path) -> bytes:
    """The body of a post from a file, byte by byte. Raises CommandFailure."""
    try:
        with path.open("rb") as stream:
            content = stream.read(PAYLOAD_BYTES_MAX + 1)
    except OSError as error:
        raise CommandFailure(
            f"cannot read {path}: {error.strerror}", exit_status=ExitStatus.USAGE
        ) from error
    if len(content) > PAYLOAD_BYTES_MAX:
        raise CommandFailure(f"{path} is larger than 1 MiB", exit_status=ExitStatus.USAGE)
    return content
