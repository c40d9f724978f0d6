"""The embedded PostgreSQL server: binaries from a wheel, started and stopped by the ledger."""

from ledger.infrastructure.postgres.embedded.binaries import find_bin_dir
from ledger.infrastructure.postgres.embedded.launcher import EmbeddedPostgresError, default_data_dir
from ledger.infrastructure.postgres.embedded.server import EmbeddedPostgres, has_cluster

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "default_data_dir",
    "find_bin_dir",
    "has_cluster",
]
