"""What the newest schema grants, and which of its triggers are on in every session.

Read from sql/schema.sql: `make lint` fails unless it is what the migrations make.
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
_TRIGGER = re.compile(r"^CREATE TRIGGER (?P<name>\w+) .*? ON (?P<table>\w+) ", re.MULTILINE)
_ALWAYS = re.compile(
    r"^ALTER TABLE (?P<table>\w+) ENABLE ALWAYS TRIGGER (?P<name>\w+);$", re.MULTILINE
)
_TABLE = re.compile(r"^CREATE TABLE (\w+) \($", re.MULTILINE)
_VIEW = re.compile(r"^CREATE VIEW (\w+) AS$", re.MULTILINE)
_SEQUENCE = re.compile(r"^CREATE SEQUENCE (\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^CREATE FUNCTION (\w+\(.*?\)) RETURNS ", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class Privilege:
    """One that `role` needs. `kind` is TABLE, SEQUENCE, FUNCTION or SCHEMA; `column` is empty for all of them.

    `arguments` are those of a function as pg_get_function_identity_arguments() gives them, with their names: PostgreSQL
    looks up types only.
    """

    role: str
    kind: str
    name: str
    privilege: str
    column: str = ""
    arguments: str = ""

    @property
    def grant(self) -> str:
        """The statement that grants it, in a session whose path leads to the books."""
        columns = f' ("{self.column}")' if self.column else ""
        arguments = f"({self.arguments})" if self.kind == "FUNCTION" else ""
        return (
            f"GRANT {self.privilege}{columns} ON {self.kind} {self.name}{arguments} TO {self.role}"
        )

    @property
    def sentence(self) -> str:
        """What the role may not do, if it has it not."""
        column = f" ({self.column})" if self.column else ""
        return f"{self.privilege} on {self.name}{column}"


@cache
def privileges() -> tuple[Privilege, ...]:
    """What ledger_app and ledger_read need, sorted."""
    found = []
    for line in _GRANT.finditer(_script()):
        # The schema has the name that its administrators gave it.
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
    """By table and name each trigger's tgenabled of pg_trigger: A for those that are on in every session, else O."""
    states = {(found["table"], found["name"]): "O" for found in _TRIGGER.finditer(_script())}
    return states | {(found["table"], found["name"]): "A" for found in _ALWAYS.finditer(_script())}


@cache
def sequences() -> tuple[str, ...]:
    """The names of the sequences that belong to no column."""
    return tuple(_SEQUENCE.findall(_script()))


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
    """All functions with their arguments, as pg_get_function_arguments() gives them."""
    return tuple(_FUNCTION.findall(_script()))


def _script() -> str:
    return resource("sql", "schema.sql").read_text()
