"""What the newest schema has: domains, tables, views, functions, triggers and grants.

Read from sql/schema.sql. `make lint` fails unless that file is what the migrations make.
"""

import re
from dataclasses import dataclass
from functools import cache

from ledger.resources import resource

_GRANT = re.compile(
    r"^GRANT (?P<privileges>.+) ON (?P<kind>TABLE|SEQUENCE|FUNCTION|SCHEMA) "
    r"(?P<name>[^ (]+)(?:\((?P<arguments>.*)\))? TO (?P<role>\w+);$",
    re.MULTILINE,
)
_PRIVILEGE = re.compile(r"(?P<privilege>[A-Z]+)(?:\((?P<columns>[^)]*)\))?")
_TRIGGER = re.compile(r"^CREATE TRIGGER (?P<name>\w+) .*? ON (?P<table>\w+)\s", re.MULTILINE)
_ALWAYS = re.compile(
    r"^ALTER TABLE (?P<table>\w+) ENABLE ALWAYS TRIGGER (?P<name>\w+);$", re.MULTILINE
)
_DOMAIN = re.compile(r"^CREATE DOMAIN (\w+) AS ", re.MULTILINE)
_TABLE = re.compile(r"^CREATE TABLE (\w+) \($", re.MULTILINE)
_VIEW = re.compile(r"^CREATE VIEW (\w+) AS$", re.MULTILINE)
_SEQUENCE = re.compile(r"^CREATE SEQUENCE (\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^CREATE FUNCTION (\w+\(.*?\)) RETURNS ", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class Privilege:
    """A privilege that `role` needs.

    `kind` is TABLE, SEQUENCE or FUNCTION. `column` is empty if the privilege is for all columns.
    `arguments` are a function's, with their names, as pg_get_function_identity_arguments()
    returns them: PostgreSQL looks a function up by types only.
    """

    role: str
    kind: str
    name: str
    privilege: str
    column: str = ""
    arguments: str = ""

    @property
    def grant(self) -> str:
        """The SQL that grants it, for a session whose path leads to the books."""
        columns = f' ("{self.column}")' if self.column else ""
        arguments = f"({self.arguments})" if self.kind == "FUNCTION" else ""
        return (
            f"GRANT {self.privilege}{columns} ON {self.kind} {self.name}{arguments} TO {self.role}"
        )

    @property
    def sentence(self) -> str:
        """The privilege in words, as in "UPDATE on payouts (state)"."""
        column = f" ({self.column})" if self.column else ""
        return f"{self.privilege} on {self.name}{column}"


@cache
def privileges() -> tuple[Privilege, ...]:
    """What ledger_app and ledger_read need, sorted."""
    found = []
    for line in _GRANT.finditer(_script()):
        # Administrators may give the schema another name.
        if line["kind"] == "SCHEMA":
            continue
        for part in _PRIVILEGE.finditer(line["privileges"]):
            privilege = "EXECUTE" if line["kind"] == "FUNCTION" else part["privilege"]
            columns = (part["columns"] or "").split(", ")
            found += [
                Privilege(
                    line["role"],
                    line["kind"],
                    line["name"],
                    privilege,
                    column.strip('"'),
                    line["arguments"] or "",
                )
                for column in columns
            ]
    return tuple(sorted(found))


@cache
def trigger_states() -> dict[tuple[str, str], str]:
    """The tgenabled of each trigger by table and name: A if it is on in every session, else O."""
    states = {(found["table"], found["name"]): "O" for found in _TRIGGER.finditer(_script())}
    return states | {(found["table"], found["name"]): "A" for found in _ALWAYS.finditer(_script())}


@cache
def sequences() -> tuple[str, ...]:
    """The names of the sequences that belong to no column."""
    return tuple(_SEQUENCE.findall(_script()))


@cache
def domains() -> tuple[str, ...]:
    """The names of all domains."""
    return tuple(_DOMAIN.findall(_script()))


@cache
def tables() -> tuple[str, ...]:
    """The names of all tables."""
    return tuple(_TABLE.findall(_script()))


@cache
def views() -> tuple[str, ...]:
    """The names of all views."""
    return tuple(_VIEW.findall(_script()))


@cache
def functions() -> tuple[str, ...]:
    """All functions with their arguments, as pg_get_function_arguments() returns them."""
    return tuple(_FUNCTION.findall(_script()))


def _script() -> str:
    return resource("sql", "schema.sql").read_text()
