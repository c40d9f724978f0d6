"""Why a schema could not be read or moved."""


class MayNotRead(Exception):
    """The role may not read a table. The message names the privilege that it lacks."""


class CannotMigrate(Exception):
    """The schema cannot be moved from the database's revision to the one asked for."""
