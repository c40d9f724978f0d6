"""`ledger verify`: audits the books, or the chain of seals over them."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import (
    JsonValue,
    Table,
    counted,
    instant_text,
    print_json,
    print_line,
    print_table,
)
from ledger.cli.parameters import json_option
from ledger.domain.audit import AuditReport, Verification, VerificationReport
from ledger.domain.seals import ChainReport, Seal

if TYPE_CHECKING:
    from ledger.settings import Settings

HELP = """
Audit the books: make the checks of sql/invariants.sql on the database itself,
and report what breaks one.

The first time all books are checked, later what is new since the latest
verification, in time proportional to it. With --all check whole books again:
only that, or --chain, finds old rows that were changed since. Each verification
is stored as one row, if the role may; --status lists them. After one that found
errors the next one checks whole books.

An error says that the books are broken; a warning, that a person should look
at something in them.

With --chain recompute the chain of seals instead, and name every row that was
changed, deleted or inserted since it was sealed. Keep the head that it prints
outside the database: given later with --expect, it proves that the chain up to
it was not written anew.

The database is that of LEDGER_DATABASE_URL, else the embedded one in
LEDGER_DATA_DIR; a server may be running on it.

Exit status: 0 without errors, 1 with errors, 2 for a bad setting, 3 if the
database cannot be reached. With --status: 0 if the latest verification found no
errors, else 1.
"""
# The verifications that --status lists.
LISTED_MAX = 20


@click.command(help=HELP)
@click.option("--all", "whole", is_flag=True, help="Check whole books, not only what is new.")
@click.option("--status", is_flag=True, help="List the latest verifications; check nothing.")
@click.option("--chain", is_flag=True, help="Recompute the chain of seals.")
@click.option(
    "--expect",
    metavar="HASH",
    default="",
    help="With --chain: a head printed before, which the chain must hold.",
)
@json_option
def verify(json: bool, whole: bool, status: bool, chain: bool, expect: str) -> None:
    from ledger.cli.configuration import load_settings
    from ledger.observability import configure_logging

    if expect and not chain:
        raise CommandFailure("--expect goes with --chain", exit_status=ExitStatus.USAGE)
    if whole + status + chain > 1:
        raise CommandFailure(
            "--all, --status and --chain exclude each other", exit_status=ExitStatus.USAGE
        )
    if expect and not re.fullmatch(r"[0-9a-fA-F]{64}", expect):
        raise CommandFailure(
            "--expect must be the 64 hexadecimal digits of a head", exit_status=ExitStatus.USAGE
        )
    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    if chain:
        _verify_chain(settings, bytes.fromhex(expect) or None, json=json)
    elif status:
        _show_status(settings, json=json)
    else:
        _verify_books(settings, whole=whole, json=json)


def _verify_books(settings: "Settings", *, whole: bool, json: bool) -> None:
    """Makes the checks and prints the findings. Exits with 1 if there are errors."""
    from ledger.bootstrap.books import verify_configured_books
    from ledger.cli.database_failures import database_failures

    with database_failures(settings.database_url):
        report = verify_configured_books(settings, whole=whole)
    if json:
        print_json({**_json_of(report.audit), **_json_of_verification(report)})
    else:
        if report.audit.findings:
            print_table(findings_table(report.audit))
        print_line(summary_of(report.audit))
        for line in _verification_lines(report):
            print_line(line)
    if report.audit.errors:
        raise click.exceptions.Exit(ExitStatus.REFUSED)


def _show_status(settings: "Settings", *, json: bool) -> None:
    """Prints the latest verifications. Exits with 1 unless the latest one found no errors."""
    from ledger.bootstrap.books import stored_verifications
    from ledger.cli.database_failures import database_failures

    with database_failures(settings.database_url):
        found = stored_verifications(settings, LISTED_MAX)
    if json:
        print_json({"verifications": [_json_of_stored(each) for each in found]})
    else:
        if found:
            print_table(_status_table(found))
        print_line(_status_line(found))
    if not found or not found[0].is_clean:
        raise click.exceptions.Exit(ExitStatus.REFUSED)


def _status_table(found: Sequence[Verification]) -> Table:
    table = Table(("number", "checked", "began at", "errors", "warnings", "seal", "head"))
    for each in found:
        table.add(
            str(each.number),
            "whole books" if each.is_whole else "new rows",
            instant_text(each.started_at),
            str(each.errors_count),
            str(each.warnings_count),
            str(each.seal_sequence) if each.seal_sequence else "",
            each.seal_hash.hex() if each.seal_sequence else "",
        )
    return table


def _status_line(found: Sequence[Verification]) -> str:
    """Whether the books are whole, and since when that is known."""
    if not found:
        return "no verification is stored"
    latest = found[0]
    began = f"verification {latest.number}, begun at {instant_text(latest.started_at)}"
    if not latest.is_clean:
        return f"the books are broken: {began}, found {counted(latest.errors_count, 'error')}"
    sealed = f" up to seal {latest.seal_sequence}" if latest.position_txid else ""
    return f"the books are whole{sealed}: {began}, found no errors"


def _verification_lines(report: VerificationReport) -> list[str]:
    if report.earlier:
        latest = report.earlier[-1]
        lines = [
            f"checked: what is new since verification {latest.number}"
            f" of {instant_text(latest.started_at)}"
        ]
    else:
        lines = [f"checked: whole books, as {report.whole_because}"]
    lines += [
        f"not shown: {counted(each.warnings_count, 'warning')} of verification {each.number}"
        f" of {instant_text(each.started_at)}, which --all shows if they are still there"
        for each in report.earlier
        if each.warnings_count
    ]
    if report.stored is None:
        lines.append(f"not stored: {report.not_stored_because}")
    elif not report.stored.position_txid:
        lines.append(f"stored as verification {report.stored.number}; nothing is sealed yet")
    else:
        lines.append(
            f"stored as verification {report.stored.number},"
            f" up to seal {report.stored.seal_sequence}"
        )
    return lines


def _json_of_verification(report: VerificationReport) -> dict[str, JsonValue]:
    """What was checked and stored, as JSON. `since` is null if whole books were checked."""
    return {
        "since": _json_of_stored(report.earlier[-1]) if report.earlier else None,
        "whole_because": report.whole_because or None,
        "earlier_warnings": sum(each.warnings_count for each in report.earlier),
        "stored": _json_of_stored(report.stored) if report.stored else None,
        "not_stored_because": report.not_stored_because or None,
    }


def _json_of_stored(verification: Verification) -> JsonValue:
    return {
        "number": verification.number,
        "is_whole": verification.is_whole,
        "started_at": instant_text(verification.started_at),
        "errors": verification.errors_count,
        "warnings": verification.warnings_count,
        "position_txid": str(verification.position_txid),
        "seal_sequence": verification.seal_sequence,
        "seal_hash": verification.seal_hash.hex() if verification.seal_sequence else None,
    }


def _verify_chain(settings: "Settings", expected_hash: bytes | None, *, json: bool) -> None:
    """Recomputes the chain of seals and prints the findings. Exits with 1 if there are errors."""
    from ledger.bootstrap.books import verify_seals
    from ledger.cli.database_failures import database_failures

    with database_failures(settings.database_url):
        report = verify_seals(settings, expected_hash)
    if json:
        print_json({**_json_of(report.audit), **_json_of_chain(report)})
    else:
        if report.audit.findings:
            print_table(findings_table(report.audit))
        for line in _chain_lines(report):
            print_line(line)
        print_line(summary_of(report.audit))
    if report.audit.errors:
        raise click.exceptions.Exit(ExitStatus.REFUSED)


def audit_configured_books(settings: "Settings") -> AuditReport:
    """Audits the database of the settings. Call it in the main thread. Raises CommandFailure."""
    # Imported here: the database's libraries take longer to load than most commands run.
    from ledger.bootstrap.books import audit_books
    from ledger.cli.database_failures import database_failures

    with database_failures(settings.database_url):
        return audit_books(settings)


def findings_table(report: AuditReport) -> Table:
    """A table of the findings, errors first."""
    table = Table(("severity", "check", "about", "finding"))
    for finding in (*report.errors, *report.warnings):
        table.add(finding.severity.value, finding.check, finding.entity, finding.detail)
    return table


def summary_of(report: AuditReport) -> str:
    """One line: how many checks there were and what they found."""
    errors, warnings = len(report.errors), len(report.warnings)
    checks = f"{len(report.checks)} checks"
    return f"{checks}, {counted(errors, 'error')}, {counted(warnings, 'warning')}"


def _chain_lines(report: ChainReport) -> list[str]:
    lines = []
    if report.head is None:
        lines.append("nothing is sealed yet")
    else:
        covered = [counted(report.events_count, "event")]
        if report.payments_count:
            covered.append(counted(report.payments_count, "payment"))
        if report.operations_count:
            covered.append(counted(report.operations_count, "operation"))
        entries = counted(report.entries_count, "entry", "entries")
        lines.append(f"head: {report.head.hash.hex()}")
        lines.append(
            f"seal {report.head.sequence}, made at {instant_text(report.head.sealed_at)};"
            f" the chain covers {', '.join(covered)} and {entries}"
        )
    lines.append(f"not sealed yet: {counted(report.unsealed_count, 'row')}")
    if report.expected_sequence is not None:
        lines.append(f"the expected head is seal {report.expected_sequence}")
    return lines


def _json_of_chain(report: ChainReport) -> dict[str, JsonValue]:
    """The chain as JSON. `expected_sequence` is the seal whose hash `--expect` gave.

    It is null if no seal has the hash, and without `--expect`.
    """
    return {
        "head": _json_of_seal(report.head) if report.head else None,
        "events_sealed": report.events_count,
        "entries_sealed": report.entries_count,
        "payments_sealed": report.payments_count,
        "operations_sealed": report.operations_count,
        "rows_not_sealed": report.unsealed_count,
        "expected_sequence": report.expected_sequence,
    }


def _json_of_seal(seal: Seal) -> dict[str, JsonValue]:
    return {
        "sequence": seal.sequence,
        "hash": seal.hash.hex(),
        "sealed_at": instant_text(seal.sealed_at),
    }


def _json_of(report: AuditReport) -> dict[str, JsonValue]:
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
