"""What the audit of the books reports."""

from dataclasses import dataclass
from datetime import datetime
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


@dataclass(frozen=True, slots=True)
class Verification:
    """A verification of the books, as it is stored.

    `position_txid` is the recorded_txid below which all rows were sealed and verified; 0 if a later
    verification cannot build on this one. `whole_number` is the number of the latest verification
    that checked whole books. `seal_sequence` and `seal_hash` are of the latest seal that it saw, 0
    and zeros if there was none.
    """

    number: int
    whole_number: int
    since_txid: int
    position_txid: int
    seal_sequence: int
    seal_hash: bytes
    errors_count: int
    warnings_count: int
    started_at: datetime

    @property
    def is_whole(self) -> bool:
        """Whether it checked whole books, not only what was new."""
        return self.whole_number == self.number

    @property
    def is_clean(self) -> bool:
        """Whether it found no error."""
        return self.errors_count == 0


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What a verification found, and what it builds on.

    `earlier` are the verifications that it builds on, from the latest that checked whole books on;
    empty if it checked whole books itself, for the reason `whole_because`. `stored` is its row;
    None if it was not stored, for the reason `not_stored_because`.
    """

    audit: AuditReport
    earlier: tuple[Verification, ...]
    whole_because: str
    stored: Verification | None
    not_stored_because: str
