"""Runs the migrations on the connection that `ledger.infrastructure.postgres.migrations` opened."""

from alembic import context
from ledger.infrastructure.postgres.migrations import run_environment

run_environment(context)
