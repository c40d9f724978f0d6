"""Takes over changes of the gateway's file, and of the secrets that it names, without a restart."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ledger.gateway.app import Gateway
from ledger.gateway.booking import Route
from ledger.gateway.configuration import Configuration, ConfigurationError, load

# A post under way still uses the configuration that it began with; no post takes as long.
RETIRED_SECONDS = 60.0

_log = structlog.get_logger("ledger.gateway")


class FileInForce:
    """The file of a gateway that serves."""

    def __init__(self, path: Path, configuration: Configuration, gateway: Gateway) -> None:
        self._path = path
        self._gateway = gateway
        self._configuration = configuration
        self._seen = _marks(configuration.files)
        self._retired: list[tuple[float, Configuration]] = []
        begin_endpoints(gateway, configuration.routes)

    async def look(self, *, is_asked: bool = False) -> bool:
        """Reads the file if it has changed, or if `is_asked`. Returns whether it is in force anew.

        A file with a fault changes nothing: the one before stays in force.
        """
        await self._close_retired(before=time.monotonic() - RETIRED_SECONDS)
        marks = _marks(self._configuration.files)
        if marks == self._seen and not is_asked:
            return False
        self._seen = marks
        try:
            loaded = load(self._path)
        except ConfigurationError as error:
            self._gateway.metrics.file_is_current(False)
            _log.error("the file is not taken over", file=str(self._path), problems=error.problems)
            return False
        before = self._configuration
        if (loaded.http, loaded.retries) != (before.http, before.retries):
            _log.warning("a change of [http] or [retries] needs a restart", file=str(self._path))
        self._retired.append((time.monotonic(), before))
        self._configuration = loaded
        self._seen = _marks(loaded.files)
        begin_endpoints(self._gateway, loaded.routes)
        self._gateway.metrics.file_is_current(True)
        _log.info("the file was read again", file=str(self._path), endpoints=sorted(loaded.routes))
        return True

    async def close(self) -> None:
        """Closes the connections that endpoints fetch with."""
        await self._close_retired(before=float("inf"))
        await self._configuration.close()

    async def _close_retired(self, *, before: float) -> None:
        while self._retired and self._retired[0][0] < before:
            await self._retired.pop(0)[1].close()


def begin_endpoints(gateway: Gateway, routes: Mapping[str, Route]) -> None:
    """Puts routes in force, and gives each its series."""
    gateway.routes = routes
    for name in routes:
        gateway.metrics.begin_endpoint(name, datetime.now(UTC))


def _marks(files: tuple[Path, ...]) -> list[tuple[int, int, int] | None]:
    """What changes when a file does, also if it is a link that Kubernetes swaps."""
    marks: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            found = file.stat()
        except OSError:
            marks.append(None)
        else:
            marks.append((found.st_ino, found.st_mtime_ns, found.st_size))
    return marks
