"""The application's ports in memory, as `ledger.infrastructure.postgres` has them on a database."""
