"""Roles that log in."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.engine import make_url

from ledger.bootstrap.database import Database
from support.events import unique
from support.running import query


@asynccontextmanager
async def login(
    database: Database, attributes: str, *grants: str
) -> AsyncIterator[tuple[str, str]]:
    """Creates a role that may log in, {role} in the statements. Yields its name and its URL.

    The role and its grants are dropped at the end.
    """
    # Roles belong to the server, which several test processes may share.
    role = unique(f"login_{os.getpid()}")
    password = f"PASSWORD '{unique('secret')}'"
    await query(database.migration_url, f"CREATE ROLE {role} LOGIN {password} {attributes}")
    try:
        for grant in grants:
            await query(database.migration_url, grant.format(role=role))
        url = make_url(database.migration_url).set(username=role, password=password.split("'")[1])
        yield role, url.render_as_string(hide_password=False)
    finally:
        await query(database.migration_url, f"REASSIGN OWNED BY {role} TO ledger_owner")
        await query(database.migration_url, f"DROP OWNED BY {role}")
        await query(database.migration_url, f"DROP ROLE {role}")
