"""The lists in the checks of the audit are those of the code and of the schema."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.damage.case import CHECKS
from support.damage.events import RULES
from support.damage.guards import CONSTRAINTS, FUNCTIONS, NEEDS, ROLES, TRIGGERS, VIEWS
from support.damage.payments import LIMITS as PAYMENT_LIMITS
from support.damage.payments import RULES as PAYMENT_RULES
from support.damage.payouts import STATES
from support.running import query

from ledger.bootstrap.database import Database
from ledger.domain.chart_of_accounts import NORMAL_SIDE
from ledger.domain.events import EventType
from ledger.domain.money import EXPONENT_BY_CURRENCY
from ledger.domain.payments import CaptureMode, DeclineReason, OperationKind, PaymentState
from ledger.domain.payout_states import MOVES, PayoutState
from ledger.domain.posting_rules import (
    EVENT_POSTING_RULES,
    PAYMENT_POSTING_RULES,
    PAYOUT_POSTING_RULES,
    Amount,
)
from ledger.infrastructure.postgres.movements import signed_minor
from ledger.infrastructure.postgres.schema.newest_schema import privileges
from ledger.infrastructure.postgres.verification.audit import Scope, load_checks
from ledger.infrastructure.postgres.verification.new_rows import narrowed, narrowed_names
from ledger.resources import resource


def test_statement_names_its_check() -> None:
    """The rows of a check carry the name in its heading."""
    assert [
        name for name, statement in CHECKS.items() if f"'{name}' AS check_name" not in statement
    ] == []


def test_semicolon_of_a_comment_ends_no_statement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The comment of a check may be several sentences joined by semicolons."""
    script = tmp_path / "invariants.sql"
    script.write_text(
        "-- check: one\n-- scope: small\n-- It proves this;\n-- and that.\nSELECT 1\n"
        "  -- here;\n;\n"
    )
    monkeypatch.setattr(
        "ledger.infrastructure.postgres.verification.audit.resource", lambda *_: script
    )
    (check,) = load_checks()
    assert check.statement == "-- It proves this;\n-- and that.\nSELECT 1\n  -- here;"


# Each holds a row for each event, entry, payment or payout, or more.
LARGE_TABLES = (
    "balance_snapshots|ledger_entries|ledger_movements|payment_operations|payments|payout_items"
    "|payout_run_items|payout_submission_items|payouts|processor_events|statement_marks"
)


# Where a check reads a range of a key for each of the rows that it was given.
LOOKED_UP: dict[str, list[str]] = {
    "archives_agree_with_their_runs": ["payouts"],
    "payouts_are_numbered_without_gaps": ["payouts"],
    "runs_have_an_item_for_each_account_they_reached": ["payout_run_items"],
    "snapshots_agree_with_the_entries": ["ledger_entries", "ledger_entries"],
    "statement_marks_agree_with_the_entries": ["ledger_movements"],
}


def test_check_says_what_it_reads_of_what_is_new() -> None:
    """A check of the scope new says of each large table after FROM which rows it reads, unless it
    looks one row up; one of the scope all says why.
    """
    script = resource("sql", "invariants.sql").read_text()
    for check in load_checks():
        if check.scope is Scope.NEW:
            _, statement = narrowed(check.statement, 1)
            unmarked = re.findall(rf"(?<!SELECT )FROM ({LARGE_TABLES})\b", statement)
            assert unmarked == LOOKED_UP.get(check.name, []), check.name
            assert narrowed_names(check.statement), check.name
        elif check.scope is Scope.ALL:
            assert re.search(rf"-- check: {check.name}\n-- scope: all\. [A-Z].*\.\n", script)


def test_scope_that_is_missing_or_unknown_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No check goes without a scope, and no comment without rows."""
    script = tmp_path / "invariants.sql"
    monkeypatch.setattr(
        "ledger.infrastructure.postgres.verification.audit.resource", lambda *_: script
    )
    for text in ("-- check: one\nSELECT 1;\n", "-- check: one\n-- scope: some\nSELECT 1;\n"):
        script.write_text(text)
        with pytest.raises(ValueError, match=r"scope|some"):
            load_checks()
    with pytest.raises(ValueError, match="payouts lost"):
        narrowed("SELECT 1 FROM payouts /* lost */", 1)


def values_of(check: str, name: str) -> str:
    """The lines of the VALUES list called `name` in a check."""
    found = re.search(
        rf"\b{name} \([a-z_, ]+\) AS \(\n  VALUES\n(.*?)\n\)", CHECKS[check], re.DOTALL
    )
    assert found is not None
    return found[1]


def test_posting_rules_are_those_of_the_code() -> None:
    """The VALUES list of the check is what the posting rules of the domain say, line by line."""
    lines = [
        f"    ('{event_type}', {position}, '{rule.entry_type}', '{rule.debit}', '{rule.credit}', "
        f"'{rule.amount.value}')"
        for event_type, rules in EVENT_POSTING_RULES.items()
        for position, rule in enumerate(rules, 1)
    ]
    # Long lines of the list go on in the next line.
    assert values_of(RULES, "rule").replace("\n     ", " ") == ",\n".join(lines)


def test_payout_posting_rules_are_those_of_the_code() -> None:
    """The VALUES lists of the check: what each state posts, and the states that a payout went
    through to get there.
    """
    lines = [
        f"    ('{state}', '{rule.entry_type}', '{rule.debit}', '{rule.credit}')"
        for state, rule in PAYOUT_POSTING_RULES.items()
    ]
    assert values_of(STATES, "rule") == ",\n".join(lines)
    # The first way there is: the other one posts what a state before it does.
    before = {after: state for (state, _), after in reversed(MOVES.items())}
    lines = []
    for state in PayoutState:
        passed = [state]
        while passed[0] in before:
            passed.insert(0, before[passed[0]])
        lines += [f"    ('{state}', '{earlier}')" for earlier in passed]
    assert values_of(STATES, "path") == ",\n".join(lines)


def test_payment_posting_rules_are_those_of_the_code() -> None:
    """The VALUES list of the check is what each step posts in the books of the payer, of an account
    that is paid, and of a restaurant that is.
    """
    lines = [
        f"    ('{step}', '{books}', {place}, '{rule.entry_type}', '{rule.debit}', '{rule.credit}', "
        f"'{rule.amount.value}')"
        for step, rules in PAYMENT_POSTING_RULES.items()
        for books, posted, first in (
            ("payer", (rules.payer,), 1),
            ("account", rules.payee_account, 2),
            ("restaurant", rules.payee_restaurant, 2),
        )
        for place, rule in enumerate(posted, first)
    ]
    assert values_of(PAYMENT_RULES, "rule") == ",\n".join(lines)


def test_only_the_last_rule_of_a_step_is_of_its_fee() -> None:
    """The check takes two entries for those of a step between two parties, and a fee for a third
    one that may be missing.
    """
    for rules in PAYMENT_POSTING_RULES.values():
        assert len(rules.payee_account) <= 1
        assert [rule.amount for rule in rules.payee_restaurant] in (
            [],
            [Amount.AMOUNT],
            [Amount.AMOUNT, Amount.FEE],
        )


def test_states_and_reasons_of_payments_are_those_of_the_code() -> None:
    """The lists in the check are the states, the kinds and the reasons of the domain."""
    statement = CHECKS[PAYMENT_LIMITS]
    reasons = re.findall(r"\('(\w+)'\)", statement.partition("SELECT")[0])
    assert reasons == [reason.value for reason in DeclineReason]
    for column, words in (
        ("p.state", PaymentState),
        ("p.capture", CaptureMode),
        ("o.kind", OperationKind),
    ):
        listed = re.search(rf"{column} IN \((.*?)\)", statement, re.DOTALL)
        assert listed is not None
        assert re.findall(r"'(\w+)'", listed[1]) == [word.value for word in words]


def test_rules_of_an_event_are_of_its_amount_then_its_fee_then_the_processors() -> None:
    """The check moves an entry up where a fee before it is not posted: there is one at the most."""
    order = [Amount.AMOUNT, Amount.FEE, Amount.PROCESSOR_FEE]
    for rules in EVENT_POSTING_RULES.values():
        amounts = [rule.amount for rule in rules]
        assert amounts == sorted(amounts, key=order.index)
        assert all(amounts.count(fee) <= 1 for fee in order[1:])


def test_chart_of_accounts_is_that_of_the_code() -> None:
    """The VALUES list of the check is the chart with its normal sides."""
    lines = [f"    ('{account}', '{side}')" for account, side in NORMAL_SIDE.items()]
    assert values_of("balance_sheets_close", "chart") == ",\n".join(lines)


def test_currencies_and_event_types_are_those_of_the_code() -> None:
    """The lists in the checks are the currencies and the event types of the domain."""
    listed = re.findall(
        r"\b[A-Z]{3}\b", "".join(re.findall(r"'((?:[A-Z]{3} ?)+)'", CHECKS["currencies_are_known"]))
    )
    assert listed == sorted(EXPONENT_BY_CURRENCY)
    types = re.findall(r"'([a-z_]+)'", CHECKS["event_types_are_known"].partition("HAVING")[2])
    assert types == [event_type.value for event_type in EventType]


def lines_of(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows as lines of a VALUES list, in order. A digest that is too far right has its own line."""
    lines = []
    for row in sorted(rows):
        line = f"    ({', '.join(map(repr, row))})"
        lines.append(
            line if len(line) < 100 else line.replace(f" {row[-1]!r}", f"\n     {row[-1]!r}")
        )
    return ",\n".join(lines)


def found_by(check: str) -> str:
    """The query `found` of a check, which computes the digests."""
    found = re.search(r"\bfound AS \(\n(.*?)\n\)", CHECKS[check], re.DOTALL)
    assert found is not None
    return found[1]


async def test_constraints_listed_are_those_of_the_schema(booked: Database) -> None:
    """The lists in the check are all constraints that the migrations made, in order, with the
    digests of their definitions.
    """
    found = f"WITH found AS ({found_by(CONSTRAINTS)}) SELECT {{}}::text, f.conname::text, f.digest"
    rows = await query(
        booked.migration_url,
        f"{found.format('f.conrelid::regclass')} FROM found AS f JOIN pg_constraint AS c"
        " USING (conrelid, contypid, conname) WHERE connamespace = 'public'::regnamespace "
        "AND c.contypid = 0 AND c.contype IN ('c', 'f', 'p', 'u', 'x') "
        "AND f.conrelid <> 'alembic_version'::regclass",
    )
    assert values_of(CONSTRAINTS, "wanted") == lines_of(rows)
    rows = await query(
        booked.migration_url,
        f"{found.format('f.contypid::regtype')} FROM found AS f JOIN pg_constraint AS c"
        " USING (conrelid, contypid, conname) WHERE connamespace = 'public'::regnamespace "
        "AND c.contypid <> 0",
    )
    assert values_of(CONSTRAINTS, "wanted_of_domain") == lines_of(rows)


async def test_function_definitions_listed_are_those_of_the_schema(booked: Database) -> None:
    """The list in the check is every function, in order, with the digest of its definition."""
    rows = await query(booked.migration_url, found_by(FUNCTIONS))
    assert values_of(FUNCTIONS, "wanted") == lines_of(rows)


async def test_triggers_listed_are_those_of_the_schema(booked: Database) -> None:
    """The check lists every trigger, in order, as the migrations made it."""
    rows = await query(
        booked.migration_url,
        "SELECT t.tgrelid::regclass::text, t.tgname::text, p.proname::text, t.tgtype, "
        "t.tgenabled::text,"
        " quote_literal(COALESCE(substring(pg_get_triggerdef(t.oid) FROM 'WHEN (.*) EXECUTE "
        "FUNCTION'), ''))"
        " FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal",
    )
    lines = [
        f"    ('{table}', '{name}', '{function}', {kind}, '{enabled}',"
        # Long ones go on in the next line, as literals of SQL may.
        + (" ''" if condition == "''" else "\n     " + condition.replace(" OR (", "'\n     ' OR ("))
        + ")"
        for table, name, function, kind, enabled, condition in sorted(rows)
    ]
    assert values_of(TRIGGERS, "wanted") == ",\n".join(lines)


async def test_unique_indexes_listed_are_those_of_the_schema(booked: Database) -> None:
    """The check lists every unique partial index, in order, with its condition."""
    rows = await query(
        booked.migration_url,
        "SELECT indrelid::regclass::text, indexrelid::regclass::text, "
        "quote_literal(pg_get_expr(indpred, indrelid)) FROM pg_index"
        " WHERE indisunique AND indpred IS NOT NULL AND indrelid IN (SELECT oid FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace)",
    )
    lines = []
    for table, index, condition in sorted(rows):
        line = f"    ('{table}', '{index}', {condition})"
        # Long ones go on in the next line.
        lines.append(
            line if len(line) < 100 else line.replace(f" {condition}", f"\n     {condition}")
        )
    assert values_of(CONSTRAINTS, "unique_where") == ",\n".join(lines)


async def test_views_listed_are_those_of_the_schema(booked: Database) -> None:
    """The list in the check names every view; that it has their definitions, silent audits show."""
    rows = await query(
        booked.migration_url,
        "SELECT relname::text FROM pg_class"
        " WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace ORDER BY relname",
    )
    listed = re.findall(r"^    \('(\w+)',$", values_of(VIEWS, "wanted"), re.MULTILINE)
    assert listed == [name for (name,) in rows]


async def test_statements_that_read_entries_sign_amounts_as_the_view_does(booked: Database) -> None:
    """The expression of the hot SQL gives the same as ledger_movements, for every account."""
    for account in NORMAL_SIDE:
        signed = signed_minor(account)
        of_entries, of_view, other = (
            f"SELECT transaction_id, position, {signed} FROM ledger_entries AS e"
            f" WHERE {signed} IS NOT NULL",
            "SELECT transaction_id, position, signed_minor FROM ledger_movements"
            f" WHERE ledger_account = '{account}'",
            f"SELECT count(*) FROM ledger_entries AS e WHERE {signed_minor(account, '0')} = 0",
        )
        url = booked.migration_url
        found = sorted(await query(url, of_entries))
        assert found == sorted(await query(url, of_view)) != []
        ((total,),) = await query(url, "SELECT count(*) FROM ledger_entries")
        assert await query(url, other) == [(total - len(found),)]


def test_functions_listed_are_those_that_the_schema_grants() -> None:
    """The lists in the check are the functions that the migrations grant the two roles by name."""
    of_app, of_both = (
        set(re.findall(r"'(\w+\(.*?\))'", listed))
        for listed in re.findall(r"f\.called IN \((.*?')\)", CHECKS[NEEDS], re.DOTALL)
    )
    granted: dict[str, set[str]] = {"ledger_app": set(), "ledger_read": set()}
    for privilege in privileges():
        if privilege.kind == "FUNCTION":
            granted[privilege.role].add(f"{privilege.name}({privilege.arguments})")
    assert of_both == granted["ledger_read"]
    assert of_app == granted["ledger_app"] - of_both


async def test_nullable_columns_listed_are_those_of_the_schema(booked: Database) -> None:
    """The list in the check is every column that may be NULL, in order."""
    rows = await query(
        booked.migration_url,
        "SELECT table_name::text, column_name::text FROM information_schema.columns "
        "JOIN information_schema.tables USING (table_schema, table_name) "
        "WHERE table_schema = 'public' AND is_nullable = 'YES' AND table_type = 'BASE TABLE'",
    )
    assert values_of(CONSTRAINTS, "nullable") == ",\n".join(
        f"    ('{table}', '{column}')" for table, column in sorted(rows)
    )


async def test_privileges_listed_are_held(booked: Database) -> None:
    """The check allows nothing that the migrations did not grant."""
    for role, table, privilege, column in re.findall(
        r"\('(\w+)', '(\w+)', '(\w+)', '(\w*)'\)", values_of(ROLES, "allowed")
    ):
        asked = f"has_column_privilege('{role}', '{table}', '{column}', '{privilege}')"
        if not column:
            # INSERT may be held on some columns only.
            asked = f"has_any_column_privilege('{role}', '{table}', '{privilege}')"
        assert await query(booked.migration_url, f"SELECT {asked}") == [(True,)], (
            role,
            table,
            privilege,
            column,
        )
