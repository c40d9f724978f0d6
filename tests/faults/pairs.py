"""A primary and its standby, for tests in which the standby takes over."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.folders import folder_for_all

from faults.clusters import FORGETFUL, Cluster, new_cluster
from faults.of_recoveries import copy_while_running, promote, running_standby
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE


@dataclass
class Pair:
    """A primary with the database `ledger_template`, and its standby."""

    primary: Cluster
    standby_pgdata: Path
    _standby: ExitStack
    is_frozen: bool = False
    is_promoted: bool = False

    @property
    def directories(self) -> tuple[Path, Path]:
        """The directories of the sockets, the standby's last."""
        return self.primary.socket.parent, self.standby_pgdata

    def url(self, *directories: Path, user: str = APPLICATION_ROLE, options: str = "") -> str:
        """The URL of the database at these sockets; by default both, the standby first."""
        hosts = directories or self.directories[::-1]
        ports = ",".join("5432" for _ in hosts)
        sockets = ",".join(map(str, hosts))
        return f"postgresql+asyncpg://{user}@/ledger_template?host={sockets}&port={ports}{options}"

    def freeze(self) -> None:
        """Freezes the primary. Its peers notice only that it is silent."""
        self.primary.signal_all(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        self.primary.signal_all(signal.SIGCONT)
        self.is_frozen = False

    def stop_standby(self) -> None:
        """Stops the standby, promoted or not. Does nothing if it has stopped."""
        self._standby.close()

    def promote(self) -> None:
        """Promotes the standby, whatever the primary does."""
        self.is_promoted = True
        promote(self.standby_pgdata)


@contextmanager
def primary_and_standby() -> Iterator[Pair]:
    """Runs both, without the schema of the books, until the block ends. In the main thread only."""
    with folder_for_all() as folder, new_cluster(folder / "first", FORGETFUL) as primary:
        copied = copy_while_running(primary, folder / "second", "--write-recovery-conf")
        with ExitStack() as standby:
            standby.enter_context(running_standby(primary, copied, max_connections="200"))
            pair = Pair(primary, copied, standby)
            try:
                yield pair
            finally:
                if pair.is_frozen:
                    pair.thaw()
