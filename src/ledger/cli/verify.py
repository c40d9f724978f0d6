"""`ledger verify`: audits the books."""

import typer
from rich.table import Table

from ledger.cli.configuration import load_settings
from ledger.cli.failures import ExitStatus, printable
from ledger.cli.output import JsonOption, JsonValue, print_json, print_line, print_table
from ledger.domain.audit import AuditReport
from ledger.observability import configure_logging
from ledger.settings import Settings

HELP = """
Audit the books: make every check of sql/invariants.sql on the database itself, and report what breaks one. It writes nothing.

An error says that the books are broken; a warning, that they tell of something a person should look at.

The database is that of LEDGER_DATABASE_URL, else the embedded one in LEDGER_DATA_DIR; a server may be running on it.

Exit status: 0 without errors, 1 with errors, 2 for a bad setting, 3 if the database cannot be reached.
"""


def verify(json: JsonOption = False) -> None:
    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    report = audit_configured_books(settings)
    if json:
        print_json(_json_of(report))
    else:
        if report.findings:
            print_table(findings_table(report))
        print_line(summary_of(report))
    if report.errors:
        raise typer.Exit(ExitStatus.REFUSED)


def audit_configured_books(settings: Settings) -> AuditReport:
    """The audit of the settings' database. From the main thread. Raises CommandFailure."""
    # Imported when needed: the database's libraries take longer to load than most other commands take in all.
    from ledger.bootstrap import audit_books
    from ledger.cli.database_failures import database_failures

    with database_failures(settings.database_url, unreachable=ExitStatus.UNREACHABLE):
        return audit_books(settings)


def findings_table(report: AuditReport) -> Table:
    """The findings, errors first."""
    table = Table("severity", "check", "about", "finding")
    for finding in (*report.errors, *report.warnings):
        table.add_row(finding.severity.value, finding.check, printable(finding.entity), printable(finding.detail))
    return table


def summary_of(report: AuditReport) -> str:
    """One line: how many checks there were and what they found."""
    return f"{len(report.checks)} checks, {_counted(report.errors, 'error')}, {_counted(report.warnings, 'warning')}"


def _counted(findings: tuple[object, ...], noun: str) -> str:
    return f"{len(findings) or 'no'} {noun}{'' if len(findings) == 1 else 's'}"


def _json_of(report: AuditReport) -> JsonValue:
    findings: list[JsonValue] = [
        {
            "check": finding.check,
            "severity": finding.severity.value,
            "entity": finding.entity,
            "detail": finding.detail,
        }
        for finding in report.findings
    ]
    return {
        "checks": list(report.checks),
        "errors": len(report.errors),
        "warnings": len(report.warnings),
        "findings": findings,
    }
