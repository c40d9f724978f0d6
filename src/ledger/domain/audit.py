"""What the audit of the books reports."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is. The value is the word that sql/invariants.sql returns."""

    ERROR = "ERROR"  # the books are broken, or what guards them is
    WARNING = "WARNING"  # a fact worth a look: the books record it faithfully


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that a check returned: `entity` names what it is about, `detail` says in words what
    is wrong with it.
    """

    check: str
    severity: Severity
    entity: str
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The checks that ran, in order, and their findings; none when all is well."""

    checks: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that say the books are broken."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that a person should look at."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.WARNING)
