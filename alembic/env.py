"""Runs the migrations, on the connection that the migrations module of the schema opened."""

from alembic import context
from ledger.infrastructure.postgres.schema.schema_moves import run_environment

run_environment(context)
