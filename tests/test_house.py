"""Rules of the tests themselves: helpers live once, and each file of tests says what it tests."""

import ast
import gc
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
IMPORT_FROM_TESTS = re.compile(r"^\s*from ((?:[\w.]*\.)?test_[\w.]*) import\b", re.MULTILINE)


@cache
def texts() -> dict[str, str]:
    """The text of every module of the tests by its path."""
    return {
        str(path.relative_to(TESTS)): path.read_text(encoding="utf-8")
        for path in sorted(TESTS.rglob("*.py"))
    }


def helpers() -> Iterator[tuple[str, Definition]]:
    """The functions and classes of every module that are not tests, each with its path."""
    # The collector would look at all nodes again and again, and take as long as the parser.
    gc.disable()
    try:
        modules = {path: ast.parse(text) for path, text in texts().items()}
    finally:
        gc.enable()
    for path, module in modules.items():
        for node in module.body:
            if isinstance(node, Definition) and not node.name.lower().startswith("test"):
                yield path, node


def body_of(helper: Definition) -> list[ast.stmt]:
    """What a helper does, without its name and its docstring; empty if it does nothing."""
    return [
        statement
        for statement in helper.body
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        and not isinstance(statement, ast.Pass)
    ]


def shape_of(body: list[ast.stmt]) -> tuple[type[ast.AST], ...]:
    """The kinds of the outer nodes of a body: those of equal bodies are equal."""
    return tuple(
        type(node)
        for statement in body
        for child in ast.iter_child_nodes(statement)
        for node in (statement, child, *ast.iter_child_nodes(child))
    )


def test_helpers_are_written_once() -> None:
    """Two modules with a helper of the same body are one helper that belongs in tests/support."""
    alike: dict[tuple[type[ast.AST], ...], list[tuple[str, Definition]]] = defaultdict(list)
    for path, helper in helpers():
        alike[shape_of(body_of(helper))].append((path, helper))
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for same_shape in alike.values():
        # Most shapes are of one helper, which is then written once.
        for path, helper in same_shape if len(same_shape) > 1 else ():
            body = "\n".join(map(ast.dump, body_of(helper)))
            places[body][path] = f"{path}:{helper.lineno} {helper.name}"
    copies = [
        " = ".join(found.values()) for body, found in places.items() if body and len(found) > 1
    ]
    assert not copies, "move these helpers to tests/support: " + "; ".join(copies)


def test_helpers_are_not_imported_from_tests() -> None:
    """A module of tests imports from tests/support, never from another module of tests."""
    wrong = [
        f"{path} imports {imported}"
        for path, text in texts().items()
        for imported in IMPORT_FROM_TESTS.findall(text)
    ]
    assert not wrong, "move what they import to tests/support: " + "; ".join(wrong)


SOURCE = TESTS.parent / "src" / "ledger"

# Folders of themes: what they test is the service as a whole, the contract or the project.
THEME_FOLDERS = ("bench", "contract", "e2e", "faults", "interop", "supply_chain")

# Tests that go by a theme, each with the sources that it tests: files, or folders.
THEMES = {
    "api/test_account_statement.py": [
        "api/convert/account_statements.py",
        "application/list_account_entries.py",
        "infrastructure/postgres/account_statements.py",
    ],
    "api/test_accounts.py": [
        "application/accounts.py",
        "domain/accounts.py",
        "infrastructure/postgres/accounts.py",
    ],
    "api/test_backpressure.py": ["application/ingest", "application/grouping.py"],
    "api/test_call_log.py": [
        "api/access/call_records.py",
        "application/call_log.py",
        "application/ports/call_log.py",
        "infrastructure/postgres/call_log.py",
    ],
    "api/test_calls_under_way.py": ["api/server.py", "api/call_frame.py", "application/ingest"],
    "api/test_event_scopes.py": ["api/access/authorization.py", "api/access/gate.py"],
    "api/test_health.py": ["api/server.py"],
    "api/test_lost_sessions.py": ["infrastructure/postgres/sessions"],
    "api/test_page_tokens.py": [
        "api/convert/page_tokens.py",
        "infrastructure/postgres/page_token_keys.py",
    ],
    "api/test_refused_calls.py": ["api/refusal_log.py", "api/call_frame.py"],
    "api/test_restaurants.py": [
        "application/restaurants.py",
        "domain/restaurants.py",
        "infrastructure/postgres/restaurants.py",
    ],
    "api/test_statement.py": [
        "api/convert/statements.py",
        "application/list_entries.py",
        "infrastructure/postgres/statement_marks.py",
    ],
    "client/test_page.py": ["client"],
    "client/test_package.py": ["client/__init__.py"],
    "cli/payouts/test_commands.py": ["cli/payouts"],
    "cli/quarantine/test_commands.py": ["cli/quarantine"],
    "cli/test_accountants_page.py": ["cli/accounting"],
    "cli/test_questions_page.py": ["cli/events", "cli/payouts", "cli/report.py"],
    "cli/test_credentials.py": ["cli/token.py", "cli/connection.py", "cli/client_settings.py"],
    "cli/test_newer_server.py": [
        "cli/words.py",
        "cli/accounts/views.py",
        "cli/payments/views.py",
        "cli/payouts/views.py",
    ],
    "cli/test_numbers.py": ["cli/parameters.py"],
    "cli/test_payments_page.py": ["cli/accounts", "cli/payments"],
    "cli/test_reconciliation_page.py": ["cli/reconcile", "reconciliation"],
    "cli/test_tutorial_page.py": ["cli/ingest", "cli/gateway", "cli/quarantine", "cli/payouts"],
    "cli/test_start.py": ["__main__.py", "cli/command_tree.py"],
    "cli/test_workers.py": ["cli/serve/supervisor.py", "cli/serve/worker.py"],
    "gateway/test_any_order.py": ["gateway/booking.py", "gateway/fees.py", "gateway/retries.py"],
    "gateway/test_crashes.py": ["gateway/booking.py", "gateway/app.py", "gateway/retries.py"],
    "gateway/processors/test_pages.py": ["gateway/processors"],
    "infrastructure/postgres/test_append_only.py": [
        "infrastructure/postgres/schema/privileges.py",
        "infrastructure/postgres/schema/triggers.py",
    ],
    "infrastructure/postgres/test_encodings.py": [
        "infrastructure/postgres/verification/start_checks.py"
    ],
    "infrastructure/postgres/test_migrations_in_use.py": [
        "infrastructure/postgres/schema/migrations.py"
    ],
    "infrastructure/postgres/test_moving_house.py": ["infrastructure/postgres/schema"],
    "infrastructure/postgres/test_one_place.py": ["infrastructure/postgres"],
    "infrastructure/postgres/test_pgbouncer.py": ["infrastructure/postgres/sessions"],
    "infrastructure/postgres/test_seals_of_payments.py": ["infrastructure/postgres/seals.py"],
    "infrastructure/postgres/test_seals_of_later_fields.py": ["infrastructure/postgres/seals.py"],
    "infrastructure/postgres/test_sessions.py": ["infrastructure/postgres/sessions/engine.py"],
    "infrastructure/postgres/test_start_on_standby.py": ["bootstrap", "cli/serve"],
    "infrastructure/postgres/test_stays.py": ["infrastructure/postgres/sessions/horizon.py"],
    "infrastructure/postgres/test_synchronous_standby.py": [
        "infrastructure/postgres/sessions/fence.py"
    ],
    "infrastructure/postgres/verification/test_checks.py": [
        "infrastructure/postgres/verification/audit.py"
    ],
    "infrastructure/postgres/test_zone_table.py": ["zones.py"],
    # Rules of the whole repository.
    "test_event_types.py": [],
    "test_documentation.py": [],
    "test_house.py": [],
}


def test_each_file_of_tests_says_what_it_tests() -> None:
    """It has the name of a source file or folder, is in a folder of themes, or is in THEMES."""
    for path in texts():
        name = Path(path).name
        if not name.startswith("test_") or path.startswith(THEME_FOLDERS) or path in THEMES:
            continue
        source = SOURCE / Path(path).with_name(name.removeprefix("test_"))
        assert source.exists() or source.with_suffix("").is_dir(), (
            f"{path} mirrors no source file: rename it, or list it in THEMES with what it tests"
        )


def test_themes_name_sources_that_exist() -> None:
    for path, sources in THEMES.items():
        assert path in texts(), f"{path} is gone: take it out of THEMES"
        for source in sources:
            assert (SOURCE / source).exists(), f"{path} says that it tests {source}, which is gone"
