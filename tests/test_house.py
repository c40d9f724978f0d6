"""Rules of the tests themselves: helpers live once, and each file of tests says what it tests."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the tests by its path."""
    return {
        str(path.relative_to(TESTS)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(TESTS.rglob("*.py"))
    }


def helpers_of(module: ast.Module) -> Iterator[Definition]:
    """The functions and classes of a module that are not tests."""
    for node in module.body:
        if isinstance(node, Definition) and not node.name.lower().startswith("test"):
            yield node


def body_of(helper: Definition) -> str:
    """What a helper does, without its name and its docstring; empty if it does nothing."""
    statements = [
        ast.dump(statement)
        for statement in helper.body
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        and not isinstance(statement, ast.Pass)
    ]
    return "\n".join(statements)


def test_helpers_are_written_once() -> None:
    """Two modules with a helper of the same body are one helper that belongs in tests/support."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for path, module in modules().items():
        for helper in helpers_of(module):
            places[body_of(helper)][path] = f"{path}:{helper.lineno} {helper.name}"
    copies = [
        " = ".join(found.values()) for body, found in places.items() if body and len(found) > 1
    ]
    assert not copies, "move these helpers to tests/support: " + "; ".join(copies)


def test_helpers_are_not_imported_from_tests() -> None:
    """A module of tests imports from tests/support, never from another module of tests."""
    wrong = [
        f"{path} imports {node.module}"
        for path, module in modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom)
        and any(part.startswith("test_") for part in (node.module or "").split("."))
    ]
    assert not wrong, "move what they import to tests/support: " + "; ".join(wrong)


SOURCE = TESTS.parent / "src" / "ledger"

# Folders of themes: what they test is the service as a whole, the contract or the project.
THEME_FOLDERS = ("contract", "e2e", "faults", "supply_chain")

# Tests that go by a theme, each with the sources that it tests: files, or folders.
THEMES = {
    "api/test_backpressure.py": ["application/ingest", "application/grouping.py"],
    "api/test_call_log.py": [
        "api/access/call_records.py",
        "application/call_log.py",
        "application/ports/call_log.py",
        "infrastructure/postgres/call_log.py",
    ],
    "api/test_event_scopes.py": ["api/access/authorization.py", "api/access/gate.py"],
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
    "cli/payouts/test_commands.py": ["cli/payouts"],
    "cli/test_credentials.py": ["cli/token.py", "cli/connection.py", "cli/client_settings.py"],
    "cli/test_newer_server.py": ["cli/words.py", "cli/payouts/views.py"],
    "cli/test_numbers.py": ["cli/parameters.py"],
    "cli/test_start.py": ["__main__.py", "cli/command_tree.py"],
    "cli/test_workers.py": ["cli/serve/supervisor.py", "cli/serve/worker.py"],
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
    "infrastructure/postgres/test_sessions.py": ["infrastructure/postgres/sessions/engine.py"],
    "infrastructure/postgres/test_start_on_standby.py": ["bootstrap", "cli/serve"],
    "infrastructure/postgres/test_stays.py": ["infrastructure/postgres/sessions/horizon.py"],
    "infrastructure/postgres/test_synchronous_standby.py": [
        "infrastructure/postgres/sessions/fence.py"
    ],
    "infrastructure/postgres/test_zone_table.py": ["zones.py"],
    # Rules of the whole repository.
    "test_event_types.py": [],
    "test_documentation.py": [],
    "test_house.py": [],
}


def test_each_file_of_tests_says_what_it_tests() -> None:
    """It has the name of a source file or folder, is in a folder of themes, or is in THEMES."""
    for path in modules():
        name = Path(path).name
        if not name.startswith("test_") or path.startswith(THEME_FOLDERS) or path in THEMES:
            continue
        source = SOURCE / Path(path).with_name(name.removeprefix("test_"))
        assert source.exists() or source.with_suffix("").is_dir(), (
            f"{path} mirrors no source file: rename it, or list it in THEMES with what it tests"
        )


def test_themes_name_sources_that_exist() -> None:
    for path, sources in THEMES.items():
        assert path in modules(), f"{path} is gone: take it out of THEMES"
        for source in sources:
            assert (SOURCE / source).exists(), f"{path} says that it tests {source}, which is gone"
